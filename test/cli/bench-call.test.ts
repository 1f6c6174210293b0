import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { buildService } from '../support/build.js'
import { cli } from '../support/cli.js'

async function serve(t: Test, settings: Record<string, string | number>) {
  const { app } = await buildService(t, settings)
  await app.listen({ host: '127.0.0.1', port: 0 })
  return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
}

const bench = (url: string, ...args: string[]) => ['bench-call', '--url', url, '--model', 'iris', ...args]

t.test('it shows what became of the requests, how fast, and what is left', async t => {
  const url = await serve(t, { RATE_LIMIT_MAX: 4, RATE_LIMIT_WINDOW: '1h' })
  const { code, stdout } = await cli(bench(url, '--duration', '3s', '--concurrency', '3'))
  t.equal(code, 0)
  t.match(stdout, /^\d s {2}\d+ a second {2}200: \d/m, 'a line a second')
  t.match(stdout, /^status +meaning +count +share +p50 ms +p99 ms +max ms$/m)
  t.match(stdout, /^200 +answered +4 +/m)
  t.match(stdout, /^429 +quota or overload +\d+ +/m)
  t.match(stdout, /^anonymous +requests +requests +4 +3600 s +0 +\d+ s$/m)
  for (const mark of ['│', '\u001b']) t.notMatch(stdout, mark)
})

t.test('on a terminal it has a bar, and tables with lines', async t => {
  const url = await serve(t, { RATE_LIMIT_MAX: 1_000_000_000 })
  const { stdout } = await cli(bench(url, '--duration', '3s'), { terminal: true, env: { NO_COLOR: '1' } })
  t.match(stdout, /█+░* \d\/3 s \d+ a second {2}200: \d+/)
  t.match(stdout, /│ 200 +│ answered +│ +\d+ │ 100\.0% │/)
})

t.test('at a rate it sends no more than that, and says how many it could not send', async t => {
  const url = await serve(t, { RATE_LIMIT_MAX: 1_000_000_000 })
  const args = bench(url, '--duration', '2s', '--rate', '10', '--concurrency', '20', '--json')
  const result = JSON.parse((await cli(args)).stdout) as { requests: number; late: number; statuses: object }
  t.equal(result.requests + result.late, 20)
  t.ok(result.requests > 0)
  t.match(result, { rate: 10, answered: result.requests, statuses: { 200: { count: result.requests } } })
})

t.test('a service that is not there, and one that answers nothing, end it with 1', async t => {
  const { app } = await buildService(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const url = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
  const refused = await cli(bench(url, '--body', '{"model":"rose"}', '--duration', '300'))
  t.equal(refused.code, 1)
  t.match(refused.stdout, /^404 +unknown model /m)
  await app.close()
  t.match(await cli(bench(url)), { code: 1, stderr: `error: ${url} does not answer\n` })
  const gone = await cli(bench(url, '--body', '{}', '--duration', '300'))
  t.equal(gone.code, 1)
  t.match(gone.stdout, /^no answer, \d+ times: connection refused$/m)
})
