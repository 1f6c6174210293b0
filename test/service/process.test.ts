import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { runProgram, startService } from '../support/build.js'
import { modelsFolder, writeModels } from '../support/onnx-folder.js'
import { endless, identity, slow } from '../support/onnx-models.js'
import { freePort, startRedis, until } from '../support/redis-fleet.js'

/** A model of some 50 ms a row, so that a stop finds requests in flight. */
const slowModels = (t: Test) =>
  modelsFolder(t, { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 8) })

/** What a service says once it is no longer ready. */
async function notReady(url: string): Promise<unknown> {
  for (;;) {
    const ready = await fetch(`${url}/health/ready`)
    if (ready.status === 503) return ready.json()
    await delay(20)
  }
}

t.test('a stop answers every request that was taken, and exits with 0', async t => {
  const service = await startService(t, {
    MODELS_DIR: slowModels(t),
    RATE_LIMIT_MAX: 1000,
    INFERENCE_THREADS: 2,
    REQUEST_TIMEOUT_MS: 60_000,
    STOP_TIMEOUT_MS: 60_000,
    STOP_DELAY_MS: 3000,
  })
  const statuses = Array.from({ length: 20 }, (_, i) =>
    service.predict({ features: [i] }).then(async response => ({
      status: response.status,
      body: (await response.json()) as { predictions: unknown },
    })),
  )
  await Promise.race(statuses)
  service.child.kill('SIGTERM')
  t.match(await notReady(service.url), { code: 'STOPPING' }, 'readiness goes off first')
  t.equal((await fetch(`${service.url}/health/live`)).status, 200, 'while it still answers')
  for (const [i, { status, body }] of (await Promise.all(statuses)).entries()) {
    t.equal(status, 200)
    t.strictSame(body.predictions, [{ outputs: { y: [i] } }], 'to its own caller')
  }
  const { code, signal, stderr } = await service.ended
  t.strictSame({ code, signal, stderr }, { code: 0, signal: null, stderr: '' })
})

t.test('a second signal ends the service at once, with 1', async t => {
  const service = await startService(t, {
    MODELS_DIR: slowModels(t),
    RATE_LIMIT_MAX: 1000,
    REQUEST_TIMEOUT_MS: 60_000,
    STOP_TIMEOUT_MS: 120_000,
    STOP_DELAY_MS: 60_000,
  })
  const requests = Array.from({ length: 100 }, () => service.predict({ features: [1] }))
  const lost = Promise.allSettled(requests)
  await Promise.race(requests)
  service.child.kill('SIGINT')
  await notReady(service.url)
  // Signals close together are one: npm sends a Ctrl-C on that has come here as well.
  await delay(500)
  const since = performance.now()
  service.child.kill('SIGINT')
  t.match(await service.ended, { code: 1, signal: null })
  t.ok(performance.now() - since < 30_000, 'long before the first would have ended it')
  await lost
})

t.test('SIGHUP reads the models again', async t => {
  const dir = modelsFolder(t, { 'copy/1/model.onnx': identity() })
  const service = await startService(t, { MODELS_DIR: dir })
  writeModels(dir, { 'other/1/model.onnx': identity() })
  service.child.kill('SIGHUP')
  await until('it is there', async () => (await fetch(`${service.url}/v1/models/other`)).status === 200)
})

t.test('SIGHUP during the start ends nothing, and the reload follows', async t => {
  const dir = modelsFolder(t, { 'copy/1/model.onnx': identity() })
  const { child, output } = runProgram(t, 'server', [], { MODELS_DIR: dir, HOST: '127.0.0.1', PORT: 0 })
  const told = async (what: RegExp) => {
    while (!what.test(output()) && child.exitCode === null && child.signalCode === null) await delay(2)
    return what.exec(output())?.[1]
  }
  await told(/limits are counted in this process/)
  child.kill('SIGHUP')
  writeModels(dir, { 'other/1/model.onnx': identity() })
  child.kill('SIGHUP')
  const url = await told(/listening on (http:[^"]+)/)
  t.equal(child.signalCode, null)
  while ((await fetch(`${url}/v1/models/other`)).status !== 200) await delay(50)
})

t.test('workers that are processes end with the service, however it ends and whatever they do', async t => {
  const service = await startService(t, {
    MODELS_DIR: modelsFolder(t, { 'endless/1/model.onnx': endless(100) }),
    INFERENCE_ISOLATION: 'process',
    REQUEST_TIMEOUT_MS: 60_000,
  })
  const pid = service.child.pid as number
  const workers = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').map(Number)
  t.ok(workers.length > 0)
  const lost = service.predict({ features: [1000] }).catch(() => {})
  await delay(500)
  service.child.kill('SIGKILL')
  await lost
  const alive = () => workers.filter(worker => existsSync(`/proc/${worker}/cmdline`) && cmdline(worker) !== '')
  await until('all of them have ended', async () => alive().length === 0, 60_000)
})

/** Empty once a process has ended, though nobody has asked for its exit code. */
const cmdline = (pid: number): string => {
  try {
    return readFileSync(`/proc/${pid}/cmdline`, 'utf8')
  } catch {
    return ''
  }
}

t.test('the service lives from the start, and is ready once each model is loaded or refused', async t => {
  const MODELS_DIR = modelsFolder(t, { 'endless/1/model.onnx': endless(0), 'copy/1/model.onnx': identity() })
  const settings = { MODELS_DIR, HOST: '127.0.0.1', PORT: 0, TRIAL_TIMEOUT_MS: 8000, INFERENCE_THREADS: 1 }
  const { child, output } = runProgram(t, 'server', [], settings)
  let url: string | undefined
  while (url === undefined && child.exitCode === null) {
    await delay(5)
    url = /listening on (http:[^"]+)/.exec(output())?.[1]
  }
  const ask = async (path: string) => {
    const response = await fetch(url + path)
    return { status: response.status, body: (await response.json()) as { loading: string[]; loaded: string[] } }
  }
  t.match(await ask('/health/live'), { status: 200, body: { status: 'live' } })
  t.match(await ask('/v2/health/ready'), { status: 503 })
  for (;;) {
    const { status, body } = await ask('/health/ready')
    t.equal(status, 503)
    t.match(body, { status: 'loading', loading: Array, loaded: Array })
    if (body.loaded.length === 1) break
    await delay(20)
  }
  t.match(await ask('/health/ready'), { status: 503, body: { loading: ['endless'], loaded: ['copy'] } })
  const predict = await fetch(`${url}/v1/models/copy/predict`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"features":[1,2,3]}',
  })
  t.equal(predict.status, 200, 'what is loaded serves')
  const early = await fetch(`${url}/v1/models/endless/predict`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: '{"features":[1]}',
  })
  t.equal(early.headers.get('retry-after'), '1')
  t.match(await early.json(), { status: 503, code: 'INFERENCE_MODEL_LOADING' })
  while ((await ask('/health/ready')).status !== 200) await delay(50)
  t.match(await ask('/health/ready'), { body: { status: 'degraded', models: ['copy'] } })
})

const refused = async (t: Test, settings: Record<string, string | number>) => {
  const { code, stderr } = await runProgram(t, 'server', [], settings).ended
  t.equal(code, 1)
  t.notMatch(stderr, /^\s+at /m, 'no stack trace')
  return stderr
}

t.test('wrong settings are all named at start, and nothing else is said', async t => {
  const message = await refused(t, { PORT: 'http', RATE_LIMIT_MAX: 'lots', TRUST_PROXY: '2' })
  t.match(message, /3 settings are wrong\n {2}PORT is 'http'.*\n {2}RATE_LIMIT_MAX is 'lots'.*\n {2}TRUST_PROXY is '2'/)
  t.equal(message.trim().split('\n').length, 4)
})

t.test('a start without models, without the default model or without its port says so in a line', async t => {
  t.match(await refused(t, { MODELS_DIR: '/nowhere', LOG_LEVEL: 'silent' }), /nowhere/)
  const MODELS_DIR = modelsFolder(t, { 'copy/1/model.onnx': identity() })
  t.match(
    await refused(t, { MODELS_DIR, DEFAULT_MODEL: 'rose', LOG_LEVEL: 'silent' }),
    /no model 'rose'; there is: copy/,
  )
  const other = createServer().listen(0, '127.0.0.1')
  t.teardown(() => other.close())
  await new Promise(resolve => other.once('listening', resolve))
  const { port: PORT } = other.address() as { port: number }
  const HOST = '127.0.0.1'
  t.match(
    await refused(t, { MODELS_DIR, HOST, PORT, LOG_LEVEL: 'silent' }),
    /EADDRINUSE.*set PORT or OPS_PORT to another one/,
  )
})

t.test('without REDIS_URL one line of the log says that limits are counted in this process', async t => {
  const service = await startService(t, { MODELS_DIR: modelsFolder(t, { 'copy/1/model.onnx': identity() }) })
  t.equal(service.output().match(/REDIS_URL is not set/g)?.length, 1)
})

t.test(
  'a service whose Redis is down starts, limits by itself, says so, and counts in Redis once that is up',
  async t => {
    const port = await freePort()
    const since = performance.now()
    const service = await startService(t, {
      MODELS_DIR: modelsFolder(t, { 'copy/1/model.onnx': identity() }),
      REDIS_URL: `redis://127.0.0.1:${port}`,
      RATE_LIMIT_MAX: 2,
      RATE_LIMIT_WINDOW: '1h',
    })
    t.comment(`up after ${Math.round(performance.now() - since)} ms`)
    const statuses = async () => {
      const list: number[] = []
      for (let i = 0; i < 3; i++) list.push((await service.predict({ features: [1, 2, 3] })).status)
      return list
    }
    const ready = async () => (await (await fetch(`${service.url}/health/ready`)).json()) as { store: string }
    const isStore = (state: string) => until(`its store is ${state}`, async () => (await ready()).store === state)
    t.match(await ready(), { status: 'degraded', store: 'down', reasons: [/store/] })
    t.strictSame(await statuses(), [200, 200, 429], 'the outage is no free-for-all')

    const redis = await startRedis(t, { port })
    await isStore('up')
    t.strictSame(await statuses(), [429, 429, 429], 'Redis is told what was admitted meanwhile')

    await redis.kill()
    await isStore('down')
    t.match(await ready(), { status: 'degraded' })
    t.equal((await service.predict({ features: [1, 2, 3] })).status, 429, 'and the local count still stands')
    service.child.kill('SIGTERM')
    t.equal((await service.ended).code, 0, 'it stops well without its store')
  },
)
