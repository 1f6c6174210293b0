import { existsSync, readFileSync } from 'node:fs'
import t from 'tap'
import { readPage, root, tableRows } from './markdown.js'

const page = new URL('docs/faults.md', root)
const rows = tableRows(readPage('docs/faults.md'))

/** The titles of the tests in a file. Where one is put together from parts, each part may be anything. */
function titlesIn(file: URL): RegExp[] {
  const source = readFileSync(file, 'utf8')
  return [...source.matchAll(/\.test\(\s*(?:'((?:[^'\\\n]|\\.)+)'|"([^"\n]+)"|`([^`]+)`)/g)].map(
    ([, single, double, template]) => {
      const text = (single ?? double ?? template ?? '').replaceAll("\\'", "'")
      const parts = template === undefined ? [text] : text.split(/\$\{[^}]*\}/)
      return new RegExp(`^${parts.map(part => part.replace(/[.*+?^${}()|[\]\\]/g, '\\$&')).join('.+')}$`)
    },
  )
}

for (const { cells } of rows) {
  t.test(`${cells.Case ?? ''} ${cells.Fault}: its tests exist`, async t => {
    const links = [...(cells.Tests ?? '').matchAll(/\[([^\]]+)\]\(([^)]+)\)/g)]
    t.ok(links.length > 0, 'it has a test')
    for (const [, title = '', target = ''] of links) {
      const file = new URL(target, page)
      if (!existsSync(file)) t.fail(`${target}: no such file`)
      else
        t.ok(
          titlesIn(file).some(known => known.test(title)),
          `${target}: ${title}`,
        )
    }
  })
}

t.test('the cases are all there, in their order', async t => {
  const cases = rows.flatMap(({ cells }) => cells.Case ?? [])
  t.strictSame(
    cases,
    Array.from({ length: 32 }, (_, index) => `F${index + 1}`),
  )
})
