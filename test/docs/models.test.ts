/** docs/models.md beside what model.json takes. */
import t from 'tap'
import { modelJsonFields, parseModelJson } from '../../service/src/inference/models/model-json.js'
import { codeBlocks, readPage, tableRows } from './markdown.js'

const page = readPage('docs/models.md')
const heads: Readonly<Record<keyof typeof modelJsonFields, string>> = {
  'model.json': 'Field',
  session: 'Field of `session`',
  image: 'Field of `image`',
  backend: 'field of `backend`',
}

for (const [what, fields] of Object.entries(modelJsonFields)) {
  t.test(`every field of ${what} has its line, and no other`, async t => {
    const head = heads[what as keyof typeof heads]
    const listed = tableRows(page).flatMap(({ cells }) => [...(cells[head] ?? '').matchAll(/`(\w+)`/g)])
    t.strictSame(listed.map(([, name]) => name).sort(), [...fields].sort())
  })
}

t.test('one model.json on the page shows every field, each with a value that it takes', async t => {
  const [whole] = codeBlocks(page).filter(({ language, code }) => language === 'json' && code.includes('"labelOutput"'))
  const { json, unknown } = parseModelJson(whole?.code ?? '')
  t.strictSame(unknown, [])
  const inside = json as Readonly<Record<string, object>>
  for (const [what, fields] of Object.entries(modelJsonFields)) {
    t.strictSame(Object.keys(what === 'model.json' ? json : (inside[what] ?? {})).sort(), [...fields].sort(), what)
  }
})
