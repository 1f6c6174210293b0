/** docs/operations.md beside what there is to operate. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { parse } from 'yaml'
import { settings } from '../../service/src/config.js'
import { codeOf, readPage, root, tableRows } from './markdown.js'

const rows = tableRows(readPage('docs/operations.md')).map(({ cells }) => cells)

t.test('the table of settings is what the settings say of themselves', async t => {
  const told = new Map(rows.filter(cells => 'Setting' in cells).map(cells => [codeOf(cells.Setting), cells]))
  t.strictSame([...told.keys()].sort(), Object.keys(settings).sort())
  for (const [name, schema] of Object.entries(settings)) {
    const words = schema as unknown as { default?: unknown; otherwise?: string; description: string; takes: string }
    t.strictSame(told.get(name), {
      Setting: `\`${name}\``,
      Default: words.default === undefined ? words.otherwise : `\`${words.default}\``,
      'What it is for': words.description,
      'What it takes': words.takes,
    })
  }
})

t.test('every alert is in the table, and no other', async t => {
  const { groups } = parse(readFileSync(new URL('deploy/prometheus/rules.yml', root), 'utf8')) as {
    groups: { rules: { alert?: string }[] }[]
  }
  const alerts = groups.flatMap(({ rules }) => rules.flatMap(({ alert }) => alert ?? []))
  t.strictSame(rows.flatMap(({ Alert }) => codeOf(Alert) ?? []).sort(), alerts.sort())
})
