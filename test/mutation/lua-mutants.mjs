/**
 * Every mutant of a Lua file: one small error each. The operators are the keys of OPERATORS.
 *
 * Not made: what no program could run (a `local` left out), and what says nothing (the name of a command changed).
 */
import { createRequire } from 'node:module'

const { parse } = createRequire(import.meta.url)('luaparse')

/** What becomes of an operator. Of a comparison: at its edge, and the other way round. */
const COMPARISONS = {
  '<': ['<=', '>='],
  '<=': ['<', '>'],
  '>': ['>=', '<='],
  '>=': ['>', '<'],
  '==': ['~='],
  '~=': ['=='],
}
const ARITHMETIC = { '+': ['-'], '-': ['+'], '*': ['/'], '/': ['*'], '%': ['*'], '^': ['*'] }
const LOGIC = { and: ['or'], or: ['and'] }
const FUNCTIONS = { min: 'max', max: 'min', floor: 'ceil', ceil: 'floor' }
const MATH = { ceil: 'math.ceil' }

/** By name: for a node, the replacements of parts of the text, as [from, to, text]. */
const OPERATORS = {
  comparison: (node, text) => replacedOperator(node, text, COMPARISONS),
  arithmetic: (node, text) => replacedOperator(node, text, ARITHMETIC),
  logic: (node, text) => [
    ...replacedOperator(node, text, LOGIC),
    ...(node.type === 'UnaryExpression' && node.operator === 'not'
      ? [[node.range[0], node.argument.range[0], '']]
      : []),
  ],
  'plus or minus 1': (node, text, parent) => {
    const value =
      node.type === 'NumericLiteral' ? node.value : Number(/^'(-?\d+)'$/.exec(text.slice(...node.range))?.[1])
    if (!/Literal$/.test(node.type) || Number.isNaN(value)) return []
    // The next entry of a list says as much as the one before.
    const steps = parent?.type === 'IndexExpression' ? [1] : [1, -1]
    return steps.map(by => [...node.range, node.type === 'NumericLiteral' ? `${value + by}` : `'${value + by}'`])
  },
  constant: (node, text) => {
    if (node.type === 'BooleanLiteral') return [[...node.range, `${!node.value}`]]
    if (node.type !== 'StringLiteral') return []
    const value = contentOf(node, text)
    if (value === '-inf' || value === '+inf') return [[...node.range, value === '-inf' ? `'+inf'` : `'-inf'`]]
    if (value === '(') return [[...node.range, `''`]]
    return []
  },
  'other function': node => {
    const { identifier } = node.type === 'CallExpression' ? called(node) : {}
    const other = FUNCTIONS[identifier?.name]
    return other === undefined ? [] : [[...called(node).range, MATH[other] ?? `math.${other}`]]
  },
  'dropped line': node =>
    ['AssignmentStatement', 'CallStatement', 'ReturnStatement', 'BreakStatement'].includes(node.type)
      ? [[...node.range, '']]
      : [],
  'swapped argument': (node, text) => {
    // The order says nothing to some.
    if (node.type !== 'CallExpression' || /^(?:math\.)?(?:min|max)$/.test(text.slice(...node.base.range))) return []
    const args = node.arguments.filter(
      (argument, index) => !(index === 0 && /^'[A-Z]+'$/.test(text.slice(...argument.range))),
    )
    return args.slice(1).flatMap((second, index) => {
      const first = args[index]
      const [one, two] = [text.slice(...first.range), text.slice(...second.range)]
      const between = text.slice(first.range[1], second.range[0])
      return one === two ? [] : [[first.range[0], second.range[1], two + between + one]]
    })
  },
}

function replacedOperator(node, text, table) {
  if (node.type !== 'BinaryExpression' && node.type !== 'LogicalExpression') return []
  const others = table[node.operator] ?? []
  const from = node.left.range[1]
  const at = from + text.slice(from, node.right.range[0]).indexOf(node.operator)
  return others.map(other => [at, at + node.operator.length, other])
}

/** The function that a call names, with what is called of a table. */
function called({ base }) {
  return { identifier: base.type === 'MemberExpression' ? base.identifier : base, range: base.range }
}

const contentOf = (node, text) => text.slice(node.range[0] + 1, node.range[1] - 1)

/** Every node of a syntax tree, with the one that it is a part of. */
function* nodesOf(node, parent) {
  if (Array.isArray(node)) for (const one of node) yield* nodesOf(one, parent)
  else if (node !== null && typeof node === 'object') {
    if (typeof node.type === 'string') yield [node, parent]
    for (const [name, value] of Object.entries(node)) if (name !== 'range') yield* nodesOf(value, node)
  }
}

/**
 * The mutants of one file, in the order of its lines.
 *
 * `id` says which one it is as long as the line stays what it is: file, what was changed, the line, and which of several
 * alike on it.
 */
export function mutantsOf(file, text) {
  const found = []
  for (const [node, parent] of nodesOf(parse(text, { ranges: true, luaVersion: '5.1' }))) {
    for (const [operator, change] of Object.entries(OPERATORS)) {
      for (const [from, to, instead] of change(node, text, parent)) {
        if (instead !== text.slice(from, to)) found.push({ file, operator, from, to, instead })
      }
    }
  }
  found.sort((a, b) => a.from - b.from || a.to - b.to)
  const times = new Map()
  return found.map(({ operator, from, to, instead }) => {
    const mutated = text.slice(0, from) + instead + text.slice(to)
    const [start, end] = [text.lastIndexOf('\n', from - 1) + 1, text.indexOf('\n', to)]
    const line = text.slice(0, from).split('\n').length
    const before = text.slice(start, end).trim()
    const after = mutated.slice(start, end + instead.length - (to - from)).trim()
    const name = `${file}: ${before.replace(/\s+/g, ' ')} → ${after.replace(/\s+/g, ' ')}`
    const same = (times.get(name) ?? 0) + 1
    times.set(name, same)
    return { id: same === 1 ? name : `${name} (${same})`, file, line, operator, text: mutated }
  })
}
