import Fastify from 'fastify'
import { Redis } from 'ioredis'
import rateLimit from 'ml-api-rate-limiter'
import { answerParent } from '../child.mjs'
import { KEY_HEADER } from '../limiter/scenarios.mjs'

/** One replica: node replica.mjs <port of Redis> <its name space> <options of the limiter, as JSON>. */
const [redisPort, nameSpace, options] = process.argv.slice(2)
const redis = new Redis({ port: Number(redisPort), host: '127.0.0.1' })
const asked = { checks: 0, ms: 0 }
const app = Fastify()
await app.register(rateLimit, {
  ...JSON.parse(options),
  redis,
  nameSpace,
  // The model counts a check for each request.
  prefetch: false,
  // A machine that is busy with other things is to be measured, not to be given up.
  storeTimeout: 20_000,
  keyGenerator: request => request.headers[KEY_HEADER],
  onStoreEvent: ({ type, ms }) => {
    if (type !== 'answered') return
    asked.checks++
    asked.ms += ms
  },
})
app.get('/', (_request, reply) => {
  reply.send({ hello: 'world' })
})
await app.listen({ port: 0, host: '127.0.0.1' })

/** Microseconds of CPU, questions to Redis and milliseconds that they took, so far. */
answerParent({ port: app.server.address().port }, () => {
  const { user, system } = process.cpuUsage()
  return { cpu: user + system, ...asked }
})
