/**
 * The model of the protocol: it holds, it does what the program does, and it finds mistakes. What each case covers, and the
 * larger ones, are in cases.ts and `npm run model`.
 */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { CASES, EXCEPTIONS, PLANTS } from './cases.js'
import { LONE_SOURCES } from './lone.js'
import { OUTAGE_SOURCES } from './outage.js'
import { QUOTA_SOURCES } from './quota.js'
import { tableOf } from './search.js'

const root = new URL('../../', import.meta.url)
const SOURCES = { ...QUOTA_SOURCES, ...LONE_SOURCES, ...OUTAGE_SOURCES }

const taken = new Set<string>()
for (const { name, covers, small } of CASES) {
  if (small === undefined) continue
  t.test(`no history breaks a promise: ${covers}`, async t => {
    const { states, depth, complete, actions, fault } = small()
    for (const action of actions.keys()) taken.add(action)
    t.comment(`${name}: ${states} states, ${depth} steps deep`)
    t.equal(fault && tableOf(fault), undefined)
    t.ok(complete, 'to the end')
    t.ok(states > 1000, `${states} states`)
  })
}

t.test('every step of the models is taken', async t => {
  t.strictSame([...taken].sort(), Object.keys(SOURCES).sort())
})

for (const { name, mistake, search } of [...PLANTS, ...EXCEPTIONS]) {
  const isMistake = PLANTS.some(plant => plant.name === name)
  t.test(`${isMistake ? 'a mistake is found' : 'an exception that the docs name is one'}: ${mistake}`, async t => {
    const { fault } = search()
    if (fault === undefined) {
      t.fail(`${name} is not found`)
      return
    }
    const { history, problem } = fault
    t.match(history[0], { what: 'start' })
    const table = tableOf(fault).split('\n')
    t.equal(table.length, history.length + 4, 'a row for each step')
    t.equal(new Set(table.slice(0, -2).map(line => line.length)).size, 1, 'its columns stand below each other')
    t.ok(table.at(-1)?.endsWith(problem))
    t.comment(`${name}: after ${history.length - 1} steps, ${problem}`)
  })
}

t.test('every step of the models stands for code of the program that is there', async t => {
  for (const [action, places] of Object.entries(SOURCES)) {
    for (const place of places)
      t.ok(isThere(place, readFileSync(new URL(pathOf(place), root), 'utf8')), `${action}: ${place}`)
  }
})

t.test('a step whose code is gone from the program is noticed', async t => {
  const place = 'plugin/src/stores/redis/prefetch.ts#granted'
  const source = readFileSync(new URL(pathOf(place), root), 'utf8')
  t.ok(isThere(place, source))
  t.notOk(isThere(place, source.replace('  granted(', '  arrived(')), 'renamed')
  t.notOk(isThere('a.ts#retire', '  this.#retire(holding, grant)\n'), 'called, and not declared')
  t.notOk(isThere('a.lua#look', 'local problem = look(log)\n'), 'called, and not declared')
  t.notOk(isThere('a.lua:NX', '-- NX\n'), 'in a comment')
})

function pathOf(place: string): string {
  return place.replace(/[#:]\w+$/, '')
}

/** `file#function`: whether it is declared; `file:word`: whether a line of a script, which has no functions, has the word. */
function isThere(place: string, source: string): boolean {
  const [, word = ''] = /[#:](\w+)$/.exec(place) ?? []
  if (place.endsWith(`:${word}`)) return new RegExp(`^(?!\\s*--).*\\b${word}\\b`, 'm').test(source)
  if (pathOf(place).endsWith('.lua')) return new RegExp(`^local function ${word}\\(`, 'm').test(source)
  const before = '(?:async |get |export async function |export function |function )'
  return new RegExp(`^ *${before}?\\*?#?${word}(?:<[^>\\n]*>)?\\((?:[^\\n]*\\{)?$`, 'm').test(source)
}

t.test('the page on exactness names every mistake and every exception that the model knows', async t => {
  const page = readFileSync(new URL('docs/exactness.md', root), 'utf8')
  for (const { name } of [...PLANTS, ...EXCEPTIONS]) t.ok(page.includes(`\`${name}\``), name)
  for (const { name } of CASES) t.ok(page.includes(`| ${name} |`), name)
})
