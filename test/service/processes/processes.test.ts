/** Several processes that serve as one, without Redis. One service for all tests, which stand in the order of its life. */
import t from 'tap'
import { RULES } from '../../../service/src/metrics/sum.js'
import { writeModels } from '../../support/onnx-folder.js'
import { identity } from '../../support/onnx-models.js'
import { until } from '../../support/redis-fleet.js'
import { admin, ask, client, seriesOf, startTwo, statusesOf } from './several.js'

const service = await startTwo(t, { RATE_LIMIT_MAX: 20, STOP_DELAY_MS: 1000 })
const { url, ops, predict, metrics, pids, readyAs } = service
const [, listens] = service.output().match(/listening on (http:[^"]+)/) ?? []
const counted = 'http_requests_total{route="/v1/predict",method="POST",status="2xx"}'

t.test('two processes listen on one port, and say so as one service', async t => {
  t.equal(pids().length, 2)
  t.equal(service.output().match(/"msg":"listening on /g)?.length, 1)
  t.equal(service.output().match(/ready: all models are loaded/g)?.length, 1)
  t.equal(listens, url)
  t.match(JSON.parse((await ask(`${url}/health/ready`)).text), { status: 'ready', store: 'in-process' })
  t.equal((await ask(`${url}/v2/health/ready`)).status, 200)
  t.equal((await ask(`${ops}/health/ready`)).status, 200)
})

t.test('a quota is exact over both, without Redis', async t => {
  const answers = await Promise.all(Array.from({ length: 50 }, () => predict()))
  const allowed = answers.filter(({ status }) => status === 200)
  t.equal(allowed.length, 20)
  t.strictSame(statusesOf(answers), [...Array(20).fill(200), ...Array(30).fill(429)])
  const left = allowed.map(({ headers }) => Number(headers['x-ratelimit-remaining']))
  t.strictSame(
    left.sort((a, b) => a - b),
    Array.from({ length: 20 }, (_, index) => index),
    'each was told its own remainder',
  )
  for (let index = 0; index < 4; index++) t.equal((await predict()).status, 429)
  const standing = JSON.parse((await ask(`${url}/v1/limits`)).text) as { policies: { remaining: number }[] }
  t.equal(standing.policies[0]?.remaining, 0)
})

t.test('metrics of both are told as one, on either port', async t => {
  await until('all is counted', async () => seriesOf(await metrics(), counted) === 20)
  for (const of of [url, url, ops]) {
    const text = await metrics(of)
    t.equal(seriesOf(text, counted), 20)
    t.equal(seriesOf(text, 'web_processes'), 2)
    t.equal(seriesOf(text, 'inference_ready'), 1)
    t.equal(seriesOf(text, 'inference_models_loaded'), 1)
    t.equal(text.match(/^# TYPE http_requests_total /gm)?.length, 1)
  }
  const gauges = [...(await metrics()).matchAll(/^# TYPE (\S+) gauge$/gm)].map(([, name]) => name as string)
  const amounts = /^(process_(open|max)_fds|process_.*_bytes|nodejs_(active|heap|external)_.*|web_processes)$/
  t.strictSame(
    gauges.filter(name => RULES[name] === undefined && !amounts.test(name)).sort(),
    ['front_paused_connections', 'gate_limit_requests', 'gate_requests', 'inference_queue_rows'],
    'what is summed are amounts; whoever adds a gauge says how it is told of several',
  )
})

t.test('an API key is known to both when it is made, and to neither once it is revoked; usage is one', async t => {
  const body = { owner: 'acme', plan: 'anonymous' }
  const made = JSON.parse((await ask(`${url}/v1/admin/keys`, { body, headers: admin })).text) as {
    id: string
    key: string
  }
  const headers = { 'x-api-key': made.key }
  const answers = await Promise.all(Array.from({ length: 6 }, () => predict({ headers })))
  t.strictSame(statusesOf(answers), Array(6).fill(200))
  const report = JSON.parse((await ask(`${url}/v1/usage`, { headers })).text) as { rows: { requests: number }[] }
  t.equal(report.rows[0]?.requests, 6)
  await ask(`${url}/v1/admin/keys/${made.id}`, { method: 'DELETE', headers: admin })
  const refused = await Promise.all(Array.from({ length: 4 }, () => predict({ headers })))
  t.strictSame(statusesOf(refused), [401, 401, 401, 401])
})

t.test('a reload reaches both, however it is asked for', async t => {
  writeModels(service.dir, { 'other/1/model.onnx': identity() })
  const report = await ask(`${url}/v1/admin/reload`, { method: 'POST', headers: admin })
  t.match(JSON.parse(report.text), { loaded: ['other/1'], broken: [] })
  const known = async (name: string) =>
    statusesOf(await Promise.all(Array.from({ length: 4 }, () => ask(`${url}/v1/models/${name}`))))
  t.strictSame(await known('other'), [200, 200, 200, 200])
  writeModels(service.dir, { 'third/1/model.onnx': identity() })
  service.child.kill('SIGHUP')
  await until('both have it', async () => (await known('third')).every(status => status === 200))
})

t.test('a connection that a process had not taken when it was killed is answered by another', async t => {
  const [stopped] = pids()
  process.kill(stopped as number, 'SIGSTOP')
  const asked = Array.from({ length: 4 }, () => ask(`${url}/health/live`))
  let answered = 0
  for (const each of asked) each.then(() => answered++)
  await until('all others are answered', async () => answered === 3)
  process.kill(stopped as number, 'SIGKILL')
  t.strictSame(statusesOf(await Promise.all(asked)), [200, 200, 200, 200])
  await until('another process is there', async () => !pids().includes(stopped as number) && pids().length === 2)
  await readyAs('ready')
})

t.test('a process that is killed is replaced: the quota stays used, no count falls, and the others serve', async t => {
  const before = seriesOf(await metrics(), counted) as number
  const [killed] = pids()
  process.kill(killed as number, 'SIGKILL')
  await until('it is gone', async () => !pids().includes(killed as number))
  t.equal((await ask(`${url}/health/live`)).status, 200, 'the other one serves')
  await until('another is there', async () => seriesOf(await metrics(), 'web_processes') === 2)
  await readyAs('ready')
  const text = await metrics()
  t.equal(seriesOf(text, 'web_processes_lost_total'), 2)
  t.equal(seriesOf(text, counted), before)
  t.equal(pids().length, 2)
  t.match(service.output(), /a process has ended; another takes its place in 100 ms/)
  const answers = await Promise.all(Array.from({ length: 6 }, () => predict()))
  t.strictSame(statusesOf(answers), Array(6).fill(429))
})

t.test('a stop under load answers every request that was taken, by both, and exits with 0', async t => {
  const lost: unknown[] = []
  let answered = 0
  const load = Array.from({ length: 8 }, async () => {
    const agent = client(t)
    for (;;) {
      try {
        const { headers } = await predict({ agent })
        answered++
        if (headers.connection === 'close') return
      } catch (error) {
        lost.push(error)
        return
      }
    }
  })
  await until('all of them are under way', async () => answered > 16)
  service.child.kill('SIGTERM')
  await Promise.all(load)
  const { code, signal, stderr } = await service.ended
  t.strictSame({ code, signal, stderr, lost }, { code: 0, signal: null, stderr: '', lost: [] })
})
