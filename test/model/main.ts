import { parseArgs } from 'node:util'
import { CASES, EXCEPTIONS, PLANTS } from './cases.js'
import { type Result, tableOf } from './search.js'

/** What `npm run model` does with its arguments. Returns the exit code: 0 if all holds and every mistake is found. */
export function main(args: readonly string[]): number {
  const { values } = parseArgs({
    args: [...args],
    options: {
      case: { type: 'string' },
      plant: { type: 'string' },
      small: { type: 'boolean', default: false },
      list: { type: 'boolean', default: false },
    },
  })
  if (values.list) return list()
  if (values.plant !== undefined) return show(values.plant)
  return searchAll(values.case, values.small)
}

function list(): number {
  for (const { name, covers } of CASES) say(`case   ${name.padEnd(30)} ${covers}`)
  for (const { name, mistake } of PLANTS) say(`plant  ${name.padEnd(30)} ${mistake}`)
  for (const { name, mistake } of EXCEPTIONS) say(`known  ${name.padEnd(30)} ${mistake}`)
  return 0
}

function show(wanted: string): number {
  const all = [...PLANTS, ...EXCEPTIONS]
  const plant = all.find(({ name }) => name === wanted)
  if (plant === undefined) return unknown('mistake', wanted, all)
  const { fault } = plant.search()
  say(`${plant.mistake}:\n`)
  say(fault === undefined ? 'NOT FOUND' : tableOf(fault))
  return fault === undefined ? 1 : 0
}

function searchAll(wanted: string | undefined, isSmall: boolean): number {
  const cases = wanted === undefined ? CASES : CASES.filter(({ name }) => name === wanted)
  if (cases.length === 0) return unknown('case', wanted ?? '', CASES)
  let failed = 0
  for (const { name, covers, small, large } of cases) {
    const search = isSmall ? small : large
    if (search === undefined) continue
    const { result, seconds } = timed(search)
    const { states, transitions, depth, complete, fault } = result
    const size = `${grouped(states)} states, ${grouped(transitions)} transitions, ${depth} steps deep`
    say(`${complete ? 'holds ' : fault ? 'BROKEN' : 'TOO BIG'}  ${name}: ${size}, ${seconds} s\n        ${covers}`)
    if (!complete) failed++
    if (fault !== undefined) say(`\n${tableOf(fault)}\n`)
  }
  for (const { name, mistake, search } of wanted === undefined ? PLANTS : []) {
    const { result, seconds } = timed(search)
    const { fault } = result
    if (fault === undefined) failed++
    const what = fault && `after ${fault.history.length - 1} steps, ${fault.problem}`
    say(`${fault === undefined ? 'MISSED' : 'found '}  ${name}: ${mistake}; ${what ?? 'no fault'}, ${seconds} s`)
  }
  return failed === 0 ? 0 : 1
}

function timed(search: () => Result): { result: Result; seconds: string } {
  const began = performance.now()
  const result = search()
  return { result, seconds: ((performance.now() - began) / 1000).toFixed(1) }
}

function unknown(what: string, name: string, all: readonly { readonly name: string }[]): number {
  process.stderr.write(`there is no ${what} '${name}'; there are ${all.map(one => one.name).join(', ')}\n`)
  return 2
}

function say(line: string): void {
  process.stdout.write(`${line}\n`)
}

function grouped(number: number): string {
  return number.toLocaleString('en')
}
