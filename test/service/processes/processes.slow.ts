/** Several processes that serve as one: with Redis, as a program, and what goes wrong. */
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { inRedis, runProgram } from '../../support/build.js'
import { modelsFolder } from '../../support/onnx-folder.js'
import { identity } from '../../support/onnx-models.js'
import { until } from '../../support/redis-fleet.js'
import { admin, ask, client, seriesOf, startTwo, statusesOf } from './several.js'

t.test('a quota is exact over both with Redis, and each process is a replica there', async t => {
  const { url, predict, readyAs } = await startTwo(t, { ...inRedis(), RATE_LIMIT_MAX: 20 })
  await readyAs('ready')
  t.match(JSON.parse((await ask(`${url}/health/ready`)).text), { store: 'up' })
  const answers = await Promise.all(Array.from({ length: 50 }, () => predict()))
  t.strictSame(statusesOf(answers), [...Array(20).fill(200), ...Array(30).fill(429)])
})

t.test('a second signal ends both at once, with 1', async t => {
  const { child, ended, url } = await startTwo(t, { STOP_DELAY_MS: 60_000, STOP_TIMEOUT_MS: 120_000 })
  child.kill('SIGTERM')
  await until('it stops', async () => (await ask(`${url}/health/ready`)).status === 503)
  await delay(500)
  child.kill('SIGTERM')
  t.match(await ended, { code: 1, signal: null })
})

t.test('a first process that is killed takes the others along', async t => {
  const { child, pids, ended } = await startTwo(t)
  const others = pids()
  child.kill('SIGKILL')
  await ended
  const isAlive = (pid: number) => {
    try {
      return process.kill(pid, 0)
    } catch {
      return false
    }
  }
  await until('all are gone', async () => !others.some(isAlive))
})

t.test('a process that is told to stop does so, loses nothing, and is replaced', async t => {
  const { pids, predict, metrics, output } = await startTwo(t, { RATE_LIMIT_MAX: 100_000, STOP_DELAY_MS: 100 })
  let isOver = false
  const lost: unknown[] = []
  const load = Array.from({ length: 4 }, async () => {
    let agent = client(t)
    while (!isOver) {
      const { headers, status } = await predict({ agent }).catch(error => {
        lost.push(error)
        return { headers: { connection: 'close' }, status: 0 }
      })
      if (status !== 200) lost.push(status)
      if (headers.connection === 'close') agent = client(t)
    }
  })
  await delay(100)
  process.kill(pids()[0] as number, 'SIGTERM')
  await until('it is replaced', async () => /"code":0,.*another takes its place/.test(output()))
  await until('both serve', async () => seriesOf(await metrics(), 'web_processes') === 2)
  isOver = true
  await Promise.all(load)
  t.strictSame(lost, [])
})

t.test('a model that was unloaded by hand is so in both, and in a process that takes the place of another', async t => {
  const { url, pids, readyAs } = await startTwo(t, {
    MODELS_DIR: modelsFolder(t, { 'copy/1/model.onnx': identity(), 'other/1/model.onnx': identity() }),
  })
  await ask(`${url}/v2/repository/models/other/unload`, { method: 'POST', headers: admin })
  const known = async () =>
    statusesOf(await Promise.all(Array.from({ length: 6 }, () => ask(`${url}/v1/models/other`))))
  t.strictSame(await known(), Array(6).fill(404))
  const [killed] = pids()
  process.kill(killed as number, 'SIGKILL')
  await until('it is replaced', async () => !pids().includes(killed as number) && pids().length === 2)
  await readyAs('ready')
  await until('neither has it', async () => (await known()).every(status => status === 404))
})

t.test('live figures are those of both', async t => {
  const { url, predict } = await startTwo(t, { RATE_LIMIT_MAX: 100 })
  const response = await fetch(`${url}/v1/events`)
  const reader = (response.body as ReadableStream<Uint8Array>).getReader()
  t.teardown(() => reader.cancel())
  await delay(700)
  await Promise.all(Array.from({ length: 10 }, () => predict()))
  let text = ''
  let allowed = 0
  while (allowed < 10) {
    const { value, done } = await reader.read()
    if (done) break
    text += Buffer.from(value).toString()
    const samples = [...text.matchAll(/^data: (.*)$/gm)].map(([, json]) => JSON.parse(json as string))
    allowed = samples.reduce((sum, sample) => sum + sample.allowed, 0)
  }
  t.equal(allowed, 10)
})

t.test('MAX_CONNECTIONS is divided, and what is beyond is closed', async t => {
  const { url } = await startTwo(t, { MAX_CONNECTIONS: 4, RATE_LIMIT_MAX: 1000 })
  const agents = Array.from({ length: 4 }, () => client(t))
  for (const agent of agents) t.equal((await ask(`${url}/health/live`, { agent })).status, 200)
  await t.rejects(ask(`${url}/health/live`), 'a fifth is closed')
  for (const agent of agents) t.equal((await ask(`${url}/health/live`, { agent })).status, 200)
})

const SETTINGS = { WEB_PROCESSES: 2, INFERENCE_THREADS: 2, HOST: '127.0.0.1', PORT: 0 }

t.test('a start that fails says why once, and ends with 1', async t => {
  const MODELS_DIR = modelsFolder(t, { 'copy/1/model.onnx': identity() })
  const { url } = await startTwo(t, { OPS_PORT: undefined })
  for (const [settings, expected] of [
    [{ MODELS_DIR: '/nowhere' }, /cannot start: .*nowhere/],
    [{ MODELS_DIR, DEFAULT_MODEL: 'rose' }, /cannot start: .*no model 'rose'/],
    [{ MODELS_DIR, PORT: new URL(url).port }, /EADDRINUSE.*set PORT or OPS_PORT to another one/],
    [{ MODELS_DIR, INFERENCE_THREADS: 1 }, /WEB_PROCESSES is '2', and INFERENCE_THREADS '1' is divided/],
    [{ MODELS_DIR, WEB_PROCESSES: 'many' }, /WEB_PROCESSES is 'many'; it takes an integer/],
  ] as const) {
    const { code, stderr } = await runProgram(t, 'server', [], { ...SETTINGS, LOG_LEVEL: 'silent', ...settings }).ended
    t.equal(code, 1)
    t.match(stderr, expected)
    t.equal(stderr.trim().split('\n').length, stderr.includes('a setting is') ? 2 : 1, stderr)
  }
})

t.test('the command line starts several processes as well, also as many as there are cores', async t => {
  const models = modelsFolder(t, { 'copy/1/model.onnx': identity() })
  for (const [count, expected] of [
    ['2', 2],
    ['auto', 1],
  ] as const) {
    const args = ['serve', models, '--host', '127.0.0.1', '--port', '0', '--web-processes', count]
    const threads = ['--inference-threads', `${expected}`]
    const { child, output, ended } = runProgram(t, 'cli', [...args, ...threads])
    await until('it is ready', async () => output().includes('ready: all models are loaded'))
    t.equal(/"processes":2/.test(output()), expected === 2)
    child.kill('SIGTERM')
    t.match(await ended, { code: 0, stderr: '' })
  }
})
