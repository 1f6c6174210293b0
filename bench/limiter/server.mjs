import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { answerParent } from '../child.mjs'
import { contenders } from './contenders.mjs'
import { scenarios } from './scenarios.mjs'

/** One contender in one scenario: node server.mjs <contender> <scenario> <port of Redis>. */
const [name, scenarioName, redisPort] = process.argv.slice(2)
const contender = contenders[name]
// A database for each, so that none counts in the keys of another.
const db = Object.keys(contenders).indexOf(name)
const redis = contender.store === 'redis' ? new Redis({ port: Number(redisPort), host: '127.0.0.1', db }) : undefined
const app = Fastify()
await contender.limit(app, scenarios[scenarioName], redis)
app.get('/', (_request, reply) => {
  reply.send({ hello: 'world' })
})
await app.listen({ port: 0, host: '127.0.0.1' })

/** Microseconds of CPU, and bytes held, so far. */
answerParent({ port: app.server.address().port }, () => {
  const { user, system } = process.cpuUsage()
  return { cpu: user + system, rss: process.memoryUsage.rss() }
})
