import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { answerParent } from '../child.mjs'
import { contenders } from './contenders.mjs'
import { processClock } from './history.mjs'
import { scenarios } from './scenarios.mjs'

/**
 * One contender in one scenario: node server.mjs <settings as JSON>. `redis`: the port of Redis, or of the network in
 * front of it; `db`: its database, one for each contender, so that none counts in the keys of another.
 */
const { name, scenarioName, redis: redisPort, db, against } = JSON.parse(process.argv[2])
const { limit, listen, store } = contenders[name]
const scenario = scenarios[scenarioName]
const redis = store === 'redis' ? new Redis({ port: redisPort, host: '127.0.0.1', db }) : undefined
await redis?.ping()
// Connections wait while others are measured.
const app = Fastify({ keepAliveTimeout: 600_000 })
await limit(app, scenario, { redis, against })
app.get('/', (_request, reply) => {
  reply.send({ hello: 'world' })
})
// The address of a client that connects by IPv4 is mapped (`::ffff:127.0.0.1`) where the server listens on `::`.
await app.listen({ port: 0, host: listen ?? (scenario.byAddress ? '::' : '127.0.0.1') })

/** Microseconds of CPU, and bytes held, so far. `clock`: what the clock of the store is to say from now on; null: the time. */
answerParent({ port: app.server.address().port }, ({ clock }) => {
  if (clock === null) processClock.unset()
  else if (clock !== undefined) processClock.set(clock)
  const { user, system } = process.cpuUsage()
  return { cpu: user + system, rss: process.memoryUsage.rss() }
})
