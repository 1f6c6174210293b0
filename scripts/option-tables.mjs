// The tables of docs/options.md, made from those in plugin/src/options/table.ts: types are what the checks allow, the rest
// is from the comments there.
//
// In the page a table stands between `<!-- options: max timeWindow -->`, which says what it has, and `<!-- end -->`.
// `<!-- policyOptions -->` has all of that table.
import ts from 'typescript'

const TITLES = ['Option', 'Type', 'Default', 'Meaning', 'Example']
/** Tables that `options` stands for. */
const MAIN = ['limiterOptions', 'registrationOptions', 'byHandOptions']

/** A page with its tables as they should be. `tables`: the exports of table.ts; `source`: its text. */
export function withOptionTables(page, tables, source) {
  const comments = commentsOf(source)
  return page.replace(/(<!-- (\w+)(?:: ([\w ]+))? -->\n)[\s\S]*?(<!-- end -->)/g, (_all, begin, table, names, end) => {
    const rows = (names?.split(' ') ?? Object.keys(tables[table])).map(name => {
      const of = table === 'options' ? MAIN.find(main => Object.hasOwn(tables[main], name)) : table
      if (of === undefined) throw new Error(`there is no option ${name}`)
      return rowOf(name, tables[of][name], comments.get(`${of}.${name}`) ?? {}, of)
    })
    const lines = [TITLES, TITLES.map(() => '---'), ...rows].map(cells => `| ${cells.join(' | ')} |\n`)
    return `${begin}\n${lines.join('')}\n${end}`
  })
}

function rowOf(name, kind, comment, table) {
  const { text = '', example, default: fallback = 'none' } = comment
  const place = table === 'registrationOptions' ? 'Registration only. ' : ''
  const type = kind.required ? `${kind.allowed}; required` : kind.allowed
  return [`\`${name}\``, type, fallback, place + text, `\`${example}\``].map(cell => cell.replaceAll('|', '\\|'))
}

/** What is said of each option, by table and name: `text`, and the tags. */
function commentsOf(source) {
  const comments = new Map()
  const file = ts.createSourceFile('table.ts', source, ts.ScriptTarget.Latest, true)
  const visit = node => {
    const table = node.parent?.parent
    if (ts.isPropertyAssignment(node) || ts.isShorthandPropertyAssignment(node)) {
      if (table !== undefined && ts.isVariableDeclaration(table)) {
        comments.set(`${table.name.text}.${node.name.text}`, parse(node.getFullText(file)))
      }
    }
    ts.forEachChild(node, visit)
  }
  visit(file)
  return comments
}

function parse(text) {
  const [, body = ''] = /\/\*\*([\s\S]*?)\*\//.exec(text) ?? []
  const [said, ...tags] = body.replace(/^\s*\* ?/gm, '').split(/^@/m)
  const words = part => part.trim().replace(/\s+/g, ' ')
  const entries = tags.map(tag => [words(tag).split(' ', 1)[0], words(tag).replace(/^\S+ /, '')])
  return { text: words(said), ...Object.fromEntries(entries) }
}
