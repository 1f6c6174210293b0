import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { answerParent } from '../child.mjs'
import { contenders } from './contenders.mjs'
import { clockOf, HISTORY_OPTIONS, historyOf } from './history.mjs'
import { scenarios } from './scenarios.mjs'

/** Fills the logs in Redis of one contender in one scenario: node filler.mjs <settings as JSON>, as for server.mjs. */
const { name, scenarioName, redis: redisPort, db, against } = JSON.parse(process.argv[2])
const scenario = scenarios[scenarioName]
const redis = new Redis({ port: redisPort, host: '127.0.0.1', db })
await redis.ping()
const clock = clockOf(redis)
const app = Fastify()
await contenders[name].limit(app, scenario, { redis, against, options: HISTORY_OPTIONS })
const fill = historyOf(app, scenario, clock)
await app.ready()

answerParent({}, async ({ from }) => ({ charges: await fill(from) }))
