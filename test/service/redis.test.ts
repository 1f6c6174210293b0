/** The service on every kind of Redis that `REDIS_URL` can name, with real servers. See also redis.slow.ts. */
import t from 'tap'
import { startCluster, startRedis, until } from '../support/redis-fleet.js'
import { CLIENTS, inProcess, share } from '../support/shared-limits.js'

t.setTimeout(240_000)

const { nodes } = await startCluster(t, { replicas: false })

t.test('a cluster is found behind one URL, by its scheme or by itself, and by all of its nodes', async t => {
  const hosts = nodes.map(({ port }) => `127.0.0.1:${port}`)
  const bare = await inProcess(t, `redis://${hosts[0]}`)
  const endpoint = await inProcess(t, `redis+cluster://${hosts[2]}`)
  const all = await inProcess(t, hosts.map(host => `redis://${host}`).join())
  for (const { isUp } of [bare, endpoint, all]) await until('the store is up', isUp)
  await share(t, bare.from, endpoint.from)
  for (const address of CLIENTS) t.equal(await all.from(address), 429)
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
  await t.rejects(inProcess(t, `redis://127.0.0.1:${nodes[0]?.port}/2`), { message: /a Redis Cluster has only one/ })
})
