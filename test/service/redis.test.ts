/** The service on every kind of Redis that `REDIS_URL` can name, with real servers. */
import { fileURLToPath } from 'node:url'
import type { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { buildService, IRIS, startService } from '../support/build.js'
import { startCluster, startRedis, startSentinels, until } from '../support/redis-fleet.js'

t.setTimeout(240_000)

const NAMED = fileURLToPath(new URL('../support/tls/named.pem', import.meta.url))

/** More than the slots of one node could hold. */
const CLIENTS = Array.from({ length: 24 }, (_, index) => `203.0.113.${index + 1}`)

type Ask = (address: string) => Promise<number>

const SETTINGS = { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h', STORE_TIMEOUT_MS: 5000, ON_STORE_ERROR: 'deny' }

async function inProcess(t: Test, REDIS_URL: string) {
  const { ask, predict } = await buildService(t, { ...SETTINGS, REDIS_URL })
  const from: Ask = async remoteAddress => (await predict(IRIS, { remoteAddress })).statusCode
  const isUp = async () => (await ask('/health/ready')).json().store === 'up'
  return { from, isUp }
}

/** As its own process, which can be told what to trust. */
async function trusting(t: Test, REDIS_URL: string) {
  const more = { TRUST_PROXY: '127.0.0.1', NODE_EXTRA_CA_CERTS: NAMED }
  const service = await startService(t, { ...SETTINGS, ...more, REDIS_URL })
  const from: Ask = async address => (await service.predict(IRIS, { headers: { 'x-forwarded-for': address } })).status
  const isUp = async () =>
    ((await (await fetch(`${service.url}/health/ready`)).json()) as { store: string }).store === 'up'
  return { from, isUp, output: service.output }
}

/** Resolves when a service has reached every node: on a busy machine a connection may take longer than it may. */
const reached = (from: Ask) =>
  until('every node was reached', async () => {
    const others = CLIENTS.map(address => address.replace('203.0.113', '192.0.2'))
    return !(await Promise.all(others.map(from))).includes(503)
  })

/** Two services that name the same Redis share the one of each client. */
async function share(t: Test, one: Ask, other: Ask): Promise<void> {
  await Promise.all([one, other].map(reached))
  for (const [index, address] of CLIENTS.entries()) {
    const [first, second] = index % 2 === 0 ? [one, other] : [other, one]
    t.strictSame([await first(address), await second(address)], [200, 429], address)
  }
}

t.test('a cluster is found behind one URL, by its scheme or by itself, and by all of its nodes', async t => {
  const { nodes } = await startCluster(t)
  const hosts = nodes.map(({ port }) => `127.0.0.1:${port}`)
  const bare = await inProcess(t, `redis://${hosts[0]}`)
  const endpoint = await inProcess(t, `redis+cluster://${hosts[4]}`)
  const all = await inProcess(t, hosts.map(host => `redis://${host}`).join())
  for (const { isUp } of [bare, endpoint, all]) await until('the store is up', isUp)
  await share(t, bare.from, endpoint.from)
  for (const address of CLIENTS) t.equal(await all.from(address), 429)
})

t.test('a cluster that asks for TLS is found behind one endpoint, though its nodes have no names', async t => {
  const { tlsPorts } = await startCluster(t, { certificate: NAMED })
  const bare = await trusting(t, `rediss://localhost:${tlsPorts[0]}`)
  const endpoint = await trusting(t, `rediss+cluster://localhost:${tlsPorts[1]}`)
  for (const { isUp } of [bare, endpoint]) await until('the store is up', isUp)
  t.match(bare.output(), /leads to a Redis Cluster/)
  await share(t, bare.from, endpoint.from)

  const stranger = await trusting(t, `rediss+cluster://127.0.0.1:${tlsPorts[2]}`)
  t.equal(await stranger.isUp(), false, 'the certificate is for another name')
  t.equal(await stranger.from('198.51.100.1'), 503)
})

t.test('behind Sentinels the limits go on after a failover', async t => {
  const { sentinels, master, replica, name } = await startSentinels(t)
  const places = sentinels.map(({ port }) => `127.0.0.1:${port}`).join()
  const one = await inProcess(t, `redis+sentinel://${places}/${name}`)
  const other = await inProcess(t, `redis+sentinel://127.0.0.1:${sentinels[2]?.port}/${name}`)
  for (const { isUp } of [one, other]) await until('the store is up', isUp)
  await share(t, one.from, other.from)
  const clients = [master, replica].map(server => server.client())
  const offset = async (client: Redis) => /^master_repl_offset:(\d+)/m.exec(await client.info('replication'))?.[1]
  await until('the replica has it all', async () => {
    const [of, behind] = await Promise.all(clients.map(offset))
    return of === behind
  })
  await master.kill()
  for (const { isUp } of [one, other]) await until('the replica has taken over', isUp, 60_000)
  for (const address of CLIENTS) t.equal(await one.from(address), 429, 'what was counted is still there')
  const addresses = CLIENTS.map(address => address.replace('203.0.113', '198.51.100'))
  for (const address of addresses) t.strictSame([await other.from(address), await one.from(address)], [200, 429])
})

t.test('a password with odd characters and a database are taken from the URL', async t => {
  const redis = await startRedis(t)
  const client = redis.client()
  await client.config('SET', 'requirepass', 'p@:/w')
  const one = await inProcess(t, `redis://:p%40%3A%2Fw@127.0.0.1:${redis.port}/2`)
  await until('the store is up', one.isUp)
  t.strictSame([await one.from('203.0.113.1'), await one.from('203.0.113.1')], [200, 429])
  t.match(await client.info('keyspace'), /^db2:/m)
})

t.test('a database of a cluster is refused at the start', async t => {
  const { nodes } = await startCluster(t)
  await t.rejects(inProcess(t, `redis://127.0.0.1:${nodes[0]?.port}/2`), { message: /a Redis Cluster has only one/ })
})
