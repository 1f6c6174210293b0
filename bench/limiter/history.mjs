import { ADDRESSES, KEY_HEADER } from './scenarios.mjs'

/** A full log has about as many entries: one for each slice of its window (the option `precision`). */
const SLICES = 100
/** Shorter windows are filled by the load itself, before anything is measured. */
const SHORTEST_MS = 2000
const MOST_PASSES = 10
const CLOCK = 'clock-of-the-bench'

const { now: genuineNow } = Date

/** The clock of the store in this process, which follows a `Date.now` that was replaced. */
export const processClock = {
  set(ms) {
    Date.now = () => ms
  },
  unset() {
    Date.now = genuineNow
  },
}

/**
 * Units of an entry: together three tenths of the quota. Prefetched quota that is given back is taken off the oldest
 * entries, and would soon use up entries of one unit.
 */
export function historyCost({ policies }) {
  const quotas = policies.filter(({ windowMs }) => windowMs >= SHORTEST_MS).map(({ max }) => max)
  return Math.max(1, Math.floor((Math.min(...quotas) * 0.3) / SLICES))
}

/**
 * Fills the log of every key of a scenario, in Redis: see `fillBy`. To be called before the app is ready, and not in the
 * process that is measured: what is injected there, and kept, makes each later request dearer.
 *
 * @param {import('fastify').FastifyInstance} app with a limiter of ours
 * @param {object} scenario
 * @param {{ set: (ms: number) => unknown, unset: () => unknown }} clock
 */
export function historyOf(app, scenario, clock) {
  const requests = []
  app.get('/history', (request, reply) => {
    requests.push(request)
    reply.send()
  })
  // A request that was answered can still be charged, which costs no HTTP.
  const charge = () =>
    Promise.all(
      requests.length === 0
        ? injections(scenario).map(each => inject(app, each))
        : requests.map(request => request.rateLimit.charge(historyCost(scenario))),
    )
  return fillBy(charge, scenario.policies, clock)
}

/**
 * Fills logs through their store, whose clock is set by hand meanwhile: one charge in each slice of each window. Gives a
 * function that fills from `from` (milliseconds since 1970), or from as far back as the windows reach, until now, and
 * resolves to how often each key was charged.
 *
 * @param {() => Promise<unknown>} charge charges each key
 * @param {{ windowMs: number }[]} policies
 * @param {{ set: (ms: number) => unknown, unset: () => unknown }} clock
 */
export function fillBy(charge, policies, clock) {
  return async function fill(from = Number.NEGATIVE_INFINITY) {
    let charges = 0
    let filled = from
    // Filling takes time, which is to be filled as well.
    for (let pass = 0; pass < MOST_PASSES; pass++) {
      const until = realNow()
      const times = timesOf(policies, filled, until)
      if (times.length === 0) break
      for (const ms of times) {
        await clock.set(ms)
        await charge()
      }
      charges += times.length
      filled = until
    }
    await clock.unset()
    return charges
  }
}

const realNow = () => Math.floor(performance.timeOrigin + performance.now())

/** The middle of each slice of each window, in order. The oldest slice is left out: it would leave its window at once. */
function timesOf(policies, from, now) {
  const times = policies
    .filter(({ windowMs }) => windowMs >= SHORTEST_MS)
    .flatMap(({ windowMs }) =>
      Array.from({ length: SLICES - 1 }, (_, index) => now - windowMs + ((index + 1.5) * windowMs) / SLICES),
    )
  return times.filter(ms => ms > from).sort((one, other) => one - other)
}

/** Each key of a scenario once. */
export const keysOf = ({ keys, hot = [] }) => [...new Set([...keys, ...hot])]

/** One request for each key. */
function injections(scenario) {
  return scenario.byAddress
    ? ADDRESSES.map(address => ({ remoteAddress: `::ffff:${address}` }))
    : keysOf(scenario).map(key => ({ headers: { [KEY_HEADER]: key } }))
}

async function inject(app, request) {
  const { statusCode, body } = await app.inject({ url: '/history', ...request })
  if (statusCode !== 200) throw new Error(`a request that fills a log was answered ${statusCode}: ${body}`)
}

/** Options of a limiter whose store has such a clock: what it gave up on and remembered would not fit the time. */
export const HISTORY_OPTIONS = { denyMemory: false, prefetch: false, storeTimeout: 2_000_000_000 }

/**
 * Makes the scripts that a client of `ioredis` sends read the time from a key, and gives the clock that sets it. Scripts
 * are always sent with their source, as to a Redis that has lost them.
 *
 * @param {import('ioredis').Redis} redis
 */
export function clockOf(redis) {
  const time = `call('HMGET', '${CLOCK}', 's', 'us')`
  const send = redis.sendCommand.bind(redis)
  redis.sendCommand = (command, ...rest) => {
    if (command.name === 'evalsha') command.reject(new Error('NOSCRIPT the source is wanted'))
    if (command.name !== 'eval') return command.name === 'evalsha' ? command.promise : send(command, ...rest)
    const [source, ...args] = command.args
    command.args = [source.replaceAll("call('TIME')", time), ...args]
    return send(command, ...rest)
  }
  return {
    set: ms => redis.hset(CLOCK, 's', Math.floor(ms / 1000), 'us', Math.floor((ms % 1000) * 1000)),
    unset: () => {},
  }
}

/** The keys of the bench's own in a database of Redis. */
export const isClock = key => key === CLOCK

/** The sorted sets in the database of a client: logs, mostly. */
export async function sortedSets(redis) {
  const keys = await redis.keys('*')
  const types = await Promise.all(keys.map(key => redis.type(key)))
  return keys.filter((_, index) => types[index] === 'zset')
}
