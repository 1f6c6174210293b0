/** The proxy as it is shipped: a real nginx, in front of replicas that are stormed, killed, frozen and moved. */

import { once } from 'node:events'
import { readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer } from 'node:http'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { readConfig } from '../../service/src/config.js'
import { clientOf, IRIS, startService } from '../support/build.js'
import {
  Load,
  lost,
  NO_NGINX,
  type ProxyProcess,
  type Replica,
  runProxy,
  type Settings,
  sendLongBody,
  startHangingUp,
  startNameServer,
  startProxy,
  startReplica,
  vanish,
} from '../support/proxy.js'
import { freePort, until } from '../support/redis-fleet.js'

const PER_SECOND = 200
const defaults = readConfig({})

/** Replicas behind a proxy that knows them by their addresses, or by a name that stands for all of them. */
interface Fleet {
  readonly proxy: ProxyProcess
  readonly replicas: Replica[]
}

async function byAddresses(t: Test, given: Settings = {}): Promise<Fleet> {
  const replicas = await Promise.all([startReplica(t), startReplica(t)])
  const addresses = replicas.map(({ host, port }) => `${host}:${port}`)
  return { replicas, proxy: await startProxy(t, { REPLICAS: addresses.join(' '), ...given }) }
}

const NAME = 'service.test'

async function byName(t: Test, given: Settings = {}, backlogOfFirst = 511) {
  const port = await freePort()
  const hosts = ['127.0.0.2', '127.0.0.3']
  const replicas = await Promise.all([
    startReplica(t, '127.0.0.2', port, backlogOfFirst),
    startReplica(t, '127.0.0.3', port),
  ])
  const { resolver, move } = await startNameServer(t, NAME, hosts)
  const proxy = await startProxy(t, { REPLICAS: `${NAME}:${port}`, PROXY_RESOLVER: resolver, ...given })
  await until('the name is resolved', async () => (await clientOf(proxy.url).predict()).ok)
  return { replicas, proxy, move }
}

/** Other systems than Linux have one address on the loopback interface. */
const noNames = NO_NGINX || (process.platform === 'linux' ? false : 'needs addresses besides 127.0.0.1')
const fleets = [
  { how: 'addresses', start: byAddresses, skip: NO_NGINX },
  { how: 'a name', start: byName, skip: noNames },
]

for (const { how, start, skip } of fleets) {
  t.test(`ten bodies of 3 MB take no replica out: by ${how}`, { skip }, async t => {
    const { proxy, replicas } = await start(t)
    const load = new Load(PER_SECOND, clientOf(proxy.url).predict)
    const storm = await Promise.all(
      Array.from({ length: 10 }, (_, index) => sendLongBody(proxy.url, 3_000_000, index % 2 === 1)),
    )
    for (const { status, type, body } of storm) {
      t.equal(status, 413)
      t.equal(type, 'application/problem+json')
      t.match(JSON.parse(body), { status: 413, code: 'BODY_TOO_LARGE', title: 'Payload Too Large' })
    }
    const before = replicas.map(({ pid }) => load.answersOf(pid))
    await until('both replicas answer after the storm', async () =>
      replicas.every(({ pid }, index) => load.answersOf(pid) > (before[index] as number) + 20),
    )
    t.strictSame(lost(await load.end()), [])
  })

  t.test(`a replica that is killed and comes back costs no request: by ${how}`, { skip }, async t => {
    const { proxy, replicas } = await start(t)
    const load = new Load(PER_SECOND, clientOf(proxy.url).predict)
    const [first, second] = replicas as [Replica, Replica]
    await until('both replicas answer', async () => replicas.every(({ pid }) => load.answersOf(pid) > 20))
    await first.kill()
    const before = load.answersOf(second.pid)
    await until('the other one goes on', async () => load.answersOf(second.pid) > before + 100)
    const fresh = await startReplica(t, first.host, first.port)
    await until('the new one answers', async () => load.answersOf(fresh.pid) > 20)
    t.strictSame(lost(await load.end()), [])
  })

  t.test(`each caller is answered in time while a replica is frozen: by ${how}`, { skip }, async t => {
    const requestTimeoutMs = defaults.requestTimeoutMs
    const { proxy, replicas } = await start(t)
    const load = new Load(20, clientOf(proxy.url).predict)
    const [frozen] = replicas as [Replica]
    await until('both replicas answer', async () => replicas.every(({ pid }) => load.answersOf(pid) > 0))
    frozen.signal('SIGSTOP')
    // As long as it takes until those that meet it are answered while others come.
    await new Promise(resolve => setTimeout(resolve, requestTimeoutMs + 1000))
    const outcomes = await load.end()
    t.strictSame(
      outcomes.filter(({ ms, status }) => status === undefined || ms > requestTimeoutMs + 1000),
      [],
    )
    const refused = lost(outcomes)
    for (const { code } of refused) t.equal(code, 'REPLICA_TIMEOUT')
    t.comment(`${outcomes.length - refused.length} of ${outcomes.length} were answered by the other replica`)
    frozen.signal('SIGCONT')
    const after = new Load(20, clientOf(proxy.url).predict)
    await until('it answers again', async () => after.answersOf(frozen.pid) > 0)
    t.strictSame(lost(await after.end()), [])
  })
}

t.test('a replica that is there and does not serve yet costs no request', { skip: NO_NGINX }, async t => {
  const loading = createServer((request, response) => {
    request.resume()
    request.on('end', () => response.writeHead(503).end())
  }).listen(0, '127.0.0.1')
  await once(loading, 'listening')
  t.teardown(() => loading.closeAllConnections())
  t.teardown(() => loading.close())
  const { host, port } = await startReplica(t)
  const { port: unready } = loading.address() as { port: number }
  const { url } = await startProxy(t, { REPLICAS: `127.0.0.1:${unready} ${host}:${port}` })
  const { predict } = clientOf(url)
  for (let i = 0; i < 20; i++) t.equal((await predict()).status, 200)
})

t.test('most callers do not meet a frozen replica that is known by its address', { skip: NO_NGINX }, async t => {
  const { proxy, replicas } = await byAddresses(t)
  const { predict } = clientOf(proxy.url)
  const [frozen] = replicas as [Replica]
  frozen.signal('SIGSTOP')
  // It has no more than this one, so each of the others goes where fewer wait.
  const first = predict()
  const second = predict()
  await Promise.race([first, second])
  for (let i = 0; i < 20; i++) t.equal((await predict()).status, 200)
  await Promise.all([first, second])
})

t.test('a replica whose machine is gone costs no request, while its name is forgotten', { skip: noNames }, async t => {
  const { proxy, replicas, move } = await byName(t, {}, 1)
  const [gone, other] = replicas as [Replica, Replica]
  const load = new Load(PER_SECOND, clientOf(proxy.url).predict)
  await until('both replicas answer', async () => replicas.every(({ pid }) => load.answersOf(pid) > 20))
  await vanish(t, gone)
  move([other.host])
  // Longer than the name is believed.
  await new Promise(resolve => setTimeout(resolve, 3000))
  const before = load.answersOf(other.pid)
  await until('the other one goes on', async () => load.answersOf(other.pid) > before + 100)
  const outcomes = await load.end()
  // What it had accepted before is answered by nobody; that is the case of the frozen replica.
  const lostAtOnce = lost(outcomes).filter(({ ms }) => ms < 5000)
  t.strictSame(lostAtOnce, [])
})

t.test('a replica that moves to another address is found', { skip: noNames }, async t => {
  const { proxy, replicas, move } = await byName(t)
  const { predict } = clientOf(proxy.url)
  t.equal((await predict()).status, 200)
  await Promise.all(replicas.map(replica => replica.kill()))
  const lonely = await predict()
  t.equal(lonely.status, 502)
  t.equal(lonely.headers.get('retry-after'), '1')
  t.match(await lonely.json(), { code: 'REPLICA_UNREACHABLE' })
  await startReplica(t, '127.0.0.4', (replicas[0] as Replica).port)
  move(['127.0.0.4'])
  await until('it answers through the proxy', async () => (await predict()).ok)
  t.pass()
})

t.test(
  'a prediction is tried on a second replica, and nothing else that changes something',
  { skip: NO_NGINX },
  async t => {
    const dead = await Promise.all([startHangingUp(t), startHangingUp(t), startHangingUp(t)])
    const proxy = await startProxy(t, { REPLICAS: dead.map(({ address }) => address).join(' ') })
    const tries = async (path: string, method: string) => {
      const sum = () => dead.reduce((total, { requests }) => total + requests(), 0)
      const before = sum()
      const response = await fetch(proxy.url + path, { method, ...(method === 'POST' ? { body: '{}' } : {}) })
      t.equal(response.status, 502, path)
      const form = path.startsWith('/v2') ? 'application/json' : 'application/problem+json'
      t.equal(response.headers.get('content-type'), form, path)
      const body = (await response.json()) as { error?: string; detail?: string }
      t.match(body.error ?? body.detail, /no replica could be reached/)
      return sum() - before
    }
    for (const path of [
      '/v1/predict',
      '/v1/models/iris/predict',
      '/v2/models/iris/infer',
      '/v2/models/iris/versions/1/infer',
      '//v1/predict/',
    ]) {
      t.equal(await tries(path, 'POST'), 2, path)
    }
    for (const path of ['/v2/repository/index', '/v1/models', '/']) t.equal(await tries(path, 'POST'), 1, path)
    for (const path of ['/v1/models', '/v2/models']) t.equal(await tries(path, 'GET'), 2, path)
  },
)

t.test('what the proxy refuses by itself has the form of the service', { skip: NO_NGINX }, async t => {
  // A stand-in that takes connections and never answers.
  const silent = createServer(() => {})
  silent.listen(0, '127.0.0.1')
  await once(silent, 'listening')
  t.teardown(() => {
    silent.closeAllConnections()
    silent.close()
  })
  const { port } = silent.address() as { port: number }
  const proxy = await startProxy(t, { REPLICAS: `127.0.0.1:${port}`, BODY_LIMIT: 200_000, REQUEST_TIMEOUT_MS: 100 })
  const post = (path: string, body: string) => fetch(proxy.url + path, { method: 'POST', body })
  const expect = async (response: Response, status: number, code: string) => {
    t.equal(response.status, status)
    t.equal(response.headers.get('content-type'), 'application/problem+json')
    t.equal(response.headers.get('cache-control'), 'no-store')
    t.equal(response.headers.get('x-content-type-options'), 'nosniff')
    const problem = (await response.json()) as { title?: string; detail?: string }
    t.match(problem, {
      type: 'about:blank',
      status,
      code,
      instance: /^urn:uuid:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}$/,
    })
    t.ok(problem.title && problem.detail)
  }
  await expect(await post('/v1/predict', 'x'.repeat(200_001)), 413, 'BODY_TOO_LARGE')
  await expect(await post('/v1/predict', '{}'), 504, 'REPLICA_TIMEOUT')
  await expect(await fetch(`${proxy.url}/metrics`), 404, 'NOT_FOUND')
  await expect(await fetch(`${proxy.url}//metrics/?x`), 404, 'NOT_FOUND')
  await expect(await fetch(`${proxy.url}/%6detrics`), 404, 'NOT_FOUND')
  await expect(await post('/v1/admin/reload', ''), 404, 'NOT_FOUND')
  await expect(await fetch(`${proxy.url}/%zz`), 400, 'MALFORMED_REQUEST')
  await expect(await fetch(proxy.url, { headers: { x: 'y'.repeat(9000) } }), 431, 'HEADERS_TOO_LARGE')
  await expect(await fetch(`${proxy.url}/${'y'.repeat(9000)}`), 414, 'URL_TOO_LONG')

  const tooLong = await post('/v2/models/iris/infer', 'x'.repeat(200_001))
  t.equal(tooLong.status, 413)
  t.equal(tooLong.headers.get('content-type'), 'application/json')
  t.strictSame(await tooLong.json(), { error: 'the body is too long; at most 200000 bytes are taken' })

  // As when the file system that bodies wait in is full.
  rmSync(join(proxy.dir, 'body'), { recursive: true })
  writeFileSync(join(proxy.dir, 'body'), '')
  const noRoom = await post('/v1/predict', 'x'.repeat(150_000))
  t.equal(noRoom.headers.get('retry-after'), '1')
  await expect(noRoom, 503, 'PROXY_BUSY')
})

t.test(
  'a stream of rows passes, however long it is and however slowly it is worked off',
  { skip: NO_NGINX },
  async t => {
    const replica = await startService(t, { TRUST_PROXY: '127.0.0.1', RATE_LIMIT_MAX: 10_000, BODY_LIMIT: 100_000 })
    const settings = { BODY_LIMIT: 100_000, STREAM_LIMIT: 20_000_000 }
    const proxy = await startProxy(t, { REPLICAS: new URL(replica.url).host, ...settings })
    const stream = (path: string, rows: number, type = 'text/csv', row = '5.1,3.5,1.4,0.2\n') =>
      fetch(proxy.url + path, {
        method: 'POST',
        headers: { 'content-type': type },
        body: `sepal_length,sepal_width,petal_length,petal_width\n${row.repeat(rows)}`,
      })
    // More than sockets hold: the replica is slower than the client.
    const many = await stream('/v1/models/iris/predict?version=1', 100_000)
    t.equal(many.status, 200)
    const lines = (await many.text()).trim().split('\n')
    t.equal(lines.length, 100_000)
    t.match(JSON.parse(lines.at(-1) as string), { label: 'setosa' })
    t.equal((await stream('//v1/models/iris/predict/', 1, 'text/csv; charset=utf-8')).status, 200)
    // What is no stream keeps the limit of a body.
    t.equal((await stream('/v1/models/iris/predict', 10_000, 'application/json')).status, 413)
    t.equal((await stream('/v2/models/iris/infer', 10_000)).status, 413)
    const tooLong = await stream('/v1/models/iris/predict', 2_000_000)
    t.match(await tooLong.json(), { status: 413, code: 'BODY_TOO_LARGE', detail: /at most 20000000 bytes/ })
    const tooMany = await stream('/v1/models/iris/predict', 300_000)
    t.match(await tooMany.json(), { status: 413, code: 'STREAM_TOO_LARGE', detail: /held back/ })
    const wrong = await stream('/v1/models/iris/predict', 1000, 'text/csv', `${'5.1,3.5,1.4,0.2\n'.repeat(3)}x\n`)
    t.match((await wrong.text()).trim().split('\n')[3], /"error".*"row":4/)
  },
)

t.test('a caller cannot choose its address', { skip: NO_NGINX }, async t => {
  const replica = await startService(t, { TRUST_PROXY: '127.0.0.1', RATE_LIMIT_MAX: 1 })
  const proxy = await startProxy(t, { REPLICAS: new URL(replica.url).host })
  const { predict } = clientOf(proxy.url)
  const as = (address: string) => predict(IRIS, { headers: { 'x-forwarded-for': address } })
  t.equal((await as('203.0.113.1')).status, 200)
  t.equal((await as('203.0.113.2')).status, 429)
})

t.test('server-sent events come through as they are sent', { skip: NO_NGINX }, async t => {
  const replica = await startService(t)
  const proxy = await startProxy(t, { REPLICAS: new URL(replica.url).host })
  const stop = new AbortController()
  const { body, headers } = await fetch(`${proxy.url}/v1/events`, { signal: stop.signal })
  t.match(headers.get('content-type'), 'text/event-stream')
  const reader = body?.getReader()
  const { value } = (await reader?.read()) ?? {}
  t.match(new TextDecoder().decode(value), /^retry: \d+/)
  const { value: figures } = (await reader?.read()) ?? {}
  t.match(new TextDecoder().decode(figures), /^data: \{/)
  stop.abort()
})

t.test(
  'the start script has the defaults of the service, and refuses what is no number',
  { skip: NO_NGINX },
  async t => {
    const body = await configOf(t, {})
    t.match(body, `client_max_body_size ${defaults.bodyLimit};`)
    t.match(body, `proxy_next_upstream_timeout ${defaults.requestTimeoutMs}ms;`)
    t.match(body, `client_body_timeout ${defaults.uploadTimeoutMs}ms;`)
    t.match(body, `client_max_body_size ${defaults.streamLimit};`)
    t.match(body, `proxy_send_timeout ${defaults.streamStallMs + 2000}ms;`)
    t.match(await configOf(t, { BODY_LIMIT: '', REQUEST_TIMEOUT_MS: 900 }), /proxy_read_timeout 1300ms;/)
    t.notMatch(body, '${', 'everything is filled in')
    for (const wrong of ['1m', '-1', '0', '1; return 200']) {
      const { output, ended } = runProxy({ BODY_LIMIT: wrong })
      t.equal((await ended)[0], 1)
      t.equal(output(), `proxy: BODY_LIMIT is '${wrong}'; it takes an integer, 1 or more\n`)
    }
  },
)

/** The configuration that nginx is started with. */
async function configOf(t: Test, given: Settings): Promise<string> {
  const { dir } = await startProxy(t, { REPLICAS: '127.0.0.1:9', ...given })
  return readFileSync(join(dir, 'nginx.conf'), 'utf8')
}
