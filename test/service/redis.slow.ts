/** The service on kinds of Redis that take long to set up: a cluster with TLS, and Sentinels with a failover. */
import type { Redis } from 'ioredis'
import t from 'tap'
import { startCluster, startSentinels, until } from '../support/redis-fleet.js'
import { CLIENTS, inProcess, NAMED, share, trusting } from '../support/shared-limits.js'

t.test('a cluster that asks for TLS is found behind one endpoint, though its nodes have no names', async t => {
  const { tlsPorts } = await startCluster(t, { certificate: NAMED })
  const bare = await trusting(t, `rediss://localhost:${tlsPorts[0]}`)
  const endpoint = await trusting(t, `rediss+cluster://localhost:${tlsPorts[4]}`)
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
