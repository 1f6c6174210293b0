/** The ratios of docs/performance.md beside what the page of the benchmarks has. */
import t from 'tap'
import { readPage, tableRows } from './markdown.js'

const told = tableRows(readPage('docs/performance.md'))
const measured = tableRows(readPage('bench/README.md'))

/** Another run on another day has other figures; a page that is further away than this tells something else. */
const isNear = (one: number, other: number) => Math.abs(Math.log(one / other)) < Math.log(1.5)

const OURS = 'ml-api-rate-limiter'

t.test('the limiter beside its peers', async t => {
  const rows = told.filter(({ cells }) => 'Requests' in cells)
  t.equal(rows.length, 5)
  for (const { cells } of rows) {
    const scenario = /\(`.*`\)$/.exec(cells.Requests ?? '')?.[0] ?? 'none'
    const inRedis = measured.filter(row => row.heading.endsWith(scenario) && row.cells.store === 'redis')
    const of = (limiter: string) => inRedis.find(row => row.cells.limiter === limiter)?.cells ?? {}
    const pairs = [
      [cells['over bare Fastify'], of(OURS)['/ bare']],
      [cells['over `@fastify/rate-limit`'], of('@fastify/rate-limit')['ours / it']],
      [cells['over `rate-limiter-flexible`'], of('rate-limiter-flexible')['ours / it']],
    ]
    for (const [here, there] of pairs) t.ok(isNear(Number(here), Number(there)), `${scenario}: ${here} and ${there}`)
  }
})

t.test('the service beside a run on the main thread', async t => {
  const rows = told.filter(({ cells }) => 'Model' in cells)
  t.equal(rows.length, 2)
  for (const { cells } of rows) {
    const model = /^`.*?`/.exec(cells.Model ?? '')?.[0] ?? 'none'
    for (const contender of ['the service', 'the service, limits in Redis']) {
      const row = measured.find(each => each.heading.startsWith(`${model},`) && each.cells[''] === contender)
      const there = row?.cells['/ naive']
      t.ok(isNear(Number(cells[contender]), Number(there)), `${model}, ${contender}: ${cells[contender]} and ${there}`)
    }
  }
})

t.test('the first table of the README', async t => {
  const rows = tableRows(readPage('README.md'))
  const columns = [
    ['this limiter', OURS],
    ['`@fastify/rate-limit`', '@fastify/rate-limit'],
    ['`rate-limiter-flexible`', 'rate-limiter-flexible'],
  ] as const
  const times = rows.filter(({ cells }) => cells['']?.startsWith('Processor time'))
  t.equal(times.length, 4)
  for (const { cells } of times) {
    const scenario = /\(`.*`\)$/.exec(cells[''] ?? '')?.[0] ?? 'none'
    for (const [column, limiter] of columns) {
      const isMeant = ({ store, limiter: name }: typeof cells & object) => store === 'redis' && name === limiter
      const there = measured.find(row => row.heading.endsWith(scenario) && isMeant(row.cells))?.cells['added µs']
      t.equal(Number.parseFloat(cells[column] ?? ''), Number(there), `${scenario}: ${limiter}`)
    }
  }
  const memory = rows.find(({ cells }) => cells['']?.includes('memory of a key'))
  for (const [column, limiter] of columns) {
    const there = measured.find(({ cells }) => '1,000 a minute' in cells && cells.limiter === limiter)
    t.equal(memory?.cells[column], `${there?.cells['1,000 a minute']} bytes`, limiter)
  }
})
