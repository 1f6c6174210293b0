import Fastify from 'fastify'
import { Redis } from 'ioredis'
import { contenders } from './contenders.mjs'
import { clockOf, HISTORY_OPTIONS, isClock } from './history.mjs'
import { KEY_HEADER } from './scenarios.mjs'

/** Quotas whose keys are weighed once they are full. */
const QUOTAS = [
  { title: '100 a minute', max: 100, windowMs: 60_000 },
  { title: '1,000 a minute', max: 1000, windowMs: 60_000 },
  { title: '1,000,000 a day', max: 1_000_000, windowMs: 86_400_000 },
  { title: '10 a second', max: 10, windowMs: 1000 },
]
/** Checks in one window of a fill; where the quota is larger, each of ours costs more. */
const MOST_CHECKS = 2000
const REQUEST = { url: '/', headers: { [KEY_HEADER]: 'client-0001' } }
/** What others keep in Redis does not differ from these. */
const WEIGHED = ['ours-redis', 'ours-before', 'fastify-redis', 'flexible-redis', 'async-redis']
/** Requests in shares of the quota, so that it is seen to be used up. */
const FASTER = 1.05

/**
 * Bytes that Redis holds for one key whose quota is used up, by MEMORY USAGE, for each contender that counts in Redis.
 *
 * Ours is filled evenly over one and a half windows, which is when it holds most, a little faster than the quota
 * allows, by its own script with a clock that is set by hand: nobody waits for a day. Of the others it makes no
 * difference how requests lie in time; beyond MOST_CHECKS a counter grows no more, and a log of requests grows by as
 * much for each.
 *
 * @param {string[]} names
 */
export async function bytesPerKey(names, port, against) {
  const redis = new Redis({ port, host: '127.0.0.1' })
  const filler = new Redis({ port, host: '127.0.0.1' })
  const clock = clockOf(filler)
  const rows = {}
  const problems = []
  for (const name of names) {
    if (!WEIGHED.includes(name)) continue
    const { keepsLogs } = contenders[name]
    rows[name] = {}
    for (const quota of QUOTAS) {
      await redis.flushall()
      const full = keepsLogs
        ? await fillOverTime(name, quota, { redis, filler, clock, against })
        : await fillAtOnce(name, quota, redis)
      rows[name][quota.title] = full.bytes
      if (!full.denied) problems.push(`${name}: a key of ${quota.title} was not full`)
    }
  }
  redis.disconnect()
  filler.disconnect()
  return { quotas: QUOTAS.map(({ title }) => title), rows, problems }
}

async function fillOverTime(name, { max, windowMs }, { redis, filler, clock, against }) {
  const checks = Math.min(max, MOST_CHECKS)
  const app = Fastify()
  const options = { ...HISTORY_OPTIONS, cost: max / checks }
  await contenders[name].limit(app, { policies: [{ max, windowMs }] }, { redis: filler, against, options })
  app.get('/', (_request, reply) => reply.send())
  let bytes = 0
  let denied = false
  let now = Date.now()
  for (let check = 0; check < checks * 1.5; check++) {
    now += windowMs / checks / FASTER
    await clock.set(now)
    const { statusCode, body } = await app.inject(REQUEST)
    if (statusCode === 429) denied = true
    else if (statusCode !== 200) throw new Error(`a request was answered ${statusCode}: ${body}`)
    if (check % Math.ceil(checks / 200) === 0) bytes = Math.max(bytes, await weigh(redis))
  }
  await app.close()
  return { bytes, denied }
}

async function fillAtOnce(name, { max, windowMs }, redis) {
  const app = Fastify()
  await contenders[name].limit(app, { policies: [{ max, windowMs }], denied: 0 }, { redis })
  app.get('/', (_request, reply) => reply.send())
  const requests = Math.min(max, MOST_CHECKS)
  for (let left = requests; left > 0; left -= 500) {
    const asked = Array.from({ length: Math.min(left, 500) }, () => app.inject(REQUEST))
    await Promise.all(asked)
  }
  const { statusCode } = await app.inject(REQUEST)
  const bytes = await weigh(redis)
  await app.close()
  const beyond = contenders[name].growsWithRequests ? max / requests : 1
  return { bytes: Math.round(bytes * beyond), denied: statusCode === 429 || max > requests }
}

async function weigh(redis) {
  let bytes = 0
  for (const key of await redis.keys('*')) {
    if (!isClock(key)) bytes += await redis.call('MEMORY', 'USAGE', key, 'SAMPLES', '0')
  }
  return bytes
}
