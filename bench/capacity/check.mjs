import { randomOf } from '../arrivals.mjs'
import { startChild } from '../child.mjs'
import { KEY_HEADER } from '../limiter/scenarios.mjs'
import { startRedis } from '../redis.mjs'
import { median } from '../summary.mjs'
import { bytesOfKey, costOfCheck, costOfRequest } from './model.mjs'
import { simulate } from './simulate.mjs'
import { zipf } from './zipf.mjs'

/** How far a prediction may be from what is measured. */
export const TOLERANCE = 0.25
const ROUNDS = 7
/** Of each, before anything counts: for the compiler of Node. */
const WARM_UP = 20_000
const CONNECTIONS = 64
const PLENTY = 100_000_000
const policiesOf = (...windows) => windows.map(timeWindow => ({ name: `per-${timeWindow}`, max: PLENTY, timeWindow }))
const clients = count => Array.from({ length: count }, (_, index) => `client-${index}`)
const messagesOf = keys => keys.map(key => `GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n${KEY_HEADER}: ${key}\r\n\r\n`)

const crowd = { keys: 2000, max: 20, windowMs: 2000 }
const remembered = { keys: 5000, requests: 20, max: 100, windowMs: 3_600_000 }

/** What is measured in each round, one after the other: four that the figures come from, and two to be predicted. */
const runs = {
  allowed: { replicas: 1, options: { policies: policiesOf(60_000) }, keys: clients(1000), requests: 5000 },
  fewer: {
    replicas: 1,
    options: { policies: policiesOf(60_000) },
    keys: clients(1000),
    requests: 5000,
    connections: 4,
  },
  denied: { replicas: 1, options: { max: 1, timeWindow: 3_600_000 }, keys: clients(10), requests: 5000 },
  policies: {
    replicas: 1,
    options: { policies: policiesOf(1000, 60_000, 86_400_000) },
    keys: clients(1000),
    requests: 5000,
  },
  crowd: {
    replicas: 1,
    options: { max: crowd.max, timeWindow: crowd.windowMs },
    keys: drawn(crowd.keys, 100_000),
    requests: 40_000,
    // As in the simulation, nobody has asked before.
    restMs: crowd.windowMs * 1.2,
  },
  pair: { replicas: 2, options: { policies: policiesOf(60_000, 86_400_000) }, keys: clients(1000), requests: 5000 },
}

function drawn(count, requests) {
  const random = randomOf(7)
  const draw = zipf(count)
  return Array.from({ length: requests }, () => `client-${draw(random)}`)
}

/**
 * Measures figures here and now, predicts from them what two other workloads cost, measures these, and a memory and the
 * simulation besides. What is compared is processor time, which other programs disturb less than they do throughput.
 *
 * @param {import('./figures.mjs').Figures} page what the bench says; the bytes are taken from there
 * @param {(text: string) => void} progress
 */
export async function checkModel(page, progress) {
  const redis = await startRedis()
  try {
    const costs = await measureCosts(redis, progress)
    const { allowed, fewer, denied, policies } = costs
    const figures = { ...page, allowed, fewer, denied, policies }
    await redis.client.flushall()
    return {
      figures,
      cases: [
        crowdCase(figures, costs.crowd),
        pairCase(figures, costs.pair),
        await memoryCase(figures, redis, progress),
      ],
      simulated: await simulatedCases(redis, progress),
    }
  } finally {
    await redis.stop()
  }
}

async function measureCosts(redis, progress) {
  const stages = new Map()
  for (const [name, run] of Object.entries(runs)) stages.set(name, await startStage(name, run, redis))
  const slices = Object.fromEntries(Object.keys(runs).map(name => [name, []]))
  try {
    for (let round = 0; round <= ROUNDS; round++) {
      for (const [name, stage] of stages) {
        progress(`round ${round} of ${ROUNDS}, ${name}`)
        // So many, and not for so long: on a busy machine it only takes longer.
        const requests = round === 0 ? WARM_UP : runs[name].requests
        const { connections = CONNECTIONS, restMs = 0 } = runs[name]
        await new Promise(resolve => setTimeout(resolve, restMs))
        const slice = await stage.measure({ kind: 'closedLoop', connections, requests })
        if (round > 0) slices[name].push(slice)
      }
    }
  } finally {
    for (const stage of stages.values()) await stage.stop()
  }
  return Object.fromEntries(
    Object.entries(slices).map(([name, own]) => [
      name,
      Object.fromEntries(Object.keys(own[0]).map(part => [part, median(own.map(slice => slice[part]))])),
    ]),
  )
}

/** Replicas of one name space with a load generator for each. */
async function startStage(name, { replicas, options, keys }, redis) {
  const args = [redis.port, name, JSON.stringify(options)]
  const load = new URL('../load.mjs', import.meta.url)
  const own = await Promise.all(
    Array.from({ length: replicas }, () => startChild(new URL('replica.mjs', import.meta.url), args)),
  )
  const loads = await Promise.all(own.map(() => startChild(load, [])))
  const messages = messagesOf(keys)
  const work = async () => {
    const states = await Promise.all(own.map(replica => replica.ask({})))
    const sum = part => states.reduce((total, state) => total + state[part], 0)
    return {
      at: performance.now(),
      cpu: sum('cpu'),
      checks: sum('checks'),
      ms: sum('ms'),
      redis: await redis.cpu(),
      calls: await redis.scriptCalls(),
    }
  }
  return {
    async measure(task) {
      const before = await work()
      const results = await Promise.all(
        loads.map((each, index) => each.ask({ ...task, seed: index + 1, messages, port: own[index].ready.port })),
      )
      const after = await work()
      const requests = results.reduce((total, { received }) => total + received, 0)
      const count = status => results.reduce((total, { statuses }) => total + (statuses[status] ?? 0), 0)
      if (count(200) + count(429) !== requests) throw new Error(`${name}: other answers than 200 and 429`)
      const checks = after.checks - before.checks
      return {
        requests,
        seconds: (after.at - before.at) / 1000,
        denied: count(429) / requests,
        reaching: checks / requests,
        together: checks / Math.max(1, after.calls - before.calls),
        roundTripMs: checks === 0 ? 0 : (after.ms - before.ms) / checks,
        serverUs: (after.cpu - before.cpu) / requests,
        redisUs: (after.redis - before.redis) / requests,
      }
    },
    async stop() {
      await Promise.all(loads.map(each => each.ask({ kind: 'hangUp' })))
      await Promise.all([...own, ...loads].map(child => child.stop()))
    },
  }
}

/** One replica under full load of a Zipf crowd: what is denied, and what reaches Redis, is simulated. */
function crowdCase(figures, measured) {
  const rate = measured.requests / measured.seconds
  const { roundTripMs, together } = measured
  const run = {
    ...crowd,
    replicas: 1,
    rate,
    denyMemory: true,
    settleMs: 0,
    runMs: measured.seconds * 1000,
    roundTripMs,
  }
  const { requests, denied, checks } = simulate(run)
  const share = part => part / requests
  const work = { denied: share(denied), reaching: share(checks), policies: 1, together }
  const predicted = costOfRequest(figures, work)
  return {
    title: 'a replica at full load; 2,000 clients by Zipf, 20 in 2 s each',
    compared: [
      compare('share denied', work.denied, measured.denied),
      compare('share that asks Redis', work.reaching, measured.reaching),
      compare('replica, µs a request', predicted.serverUs, measured.serverUs),
      compare('Redis, µs a request', predicted.redisUs, measured.redisUs),
    ],
  }
}

/** Two replicas under full load, two policies: between the one policy and the three that were measured. */
function pairCase(figures, measured) {
  const predicted = costOfCheck(figures, 2, measured.together)
  return {
    title: 'two replicas at full load; two policies, all allowed',
    compared: [
      compare('replica, µs a request', predicted.serverUs, measured.serverUs),
      compare('Redis, µs a request', predicted.redisUs, measured.redisUs),
    ],
  }
}

async function memoryCase(figures, redis, progress) {
  const { keys, requests, max, windowMs } = remembered
  progress('memory')
  const used = async () => Number(/used_memory:(\d+)/.exec(await redis.client.info('memory'))[1])
  const stage = await startStage(
    'memory',
    { replicas: 1, options: { max, timeWindow: windowMs }, keys: clients(keys) },
    redis,
  )
  const task = { kind: 'closedLoop', connections: CONNECTIONS }
  const before = await used()
  await stage.measure({ ...task, requests: keys * requests })
  const measured = (await used()) - before
  await stage.stop()
  const predicted = keys * bytesOfKey(figures, requests)
  return {
    title: '5,000 clients that have asked 20 times of 100 an hour',
    compared: [compare('Redis, bytes', predicted, measured)],
  }
}

/** Small fleets as they are and as they are simulated: what reaches Redis. */
async function simulatedCases(redis, progress) {
  const compared = []
  for (const keys of [1, 1000]) {
    for (const replicas of [1, 4]) {
      for (const denyMemory of [true, false]) {
        const name = `${replicas === 1 ? 'one replica' : `${replicas} replicas`}, ${keys === 1 ? 'one key' : '1,000 keys'}, deny memory ${denyMemory ? 'on' : 'off'}`
        progress(name)
        const [max, windowMs] = keys === 1 ? [100, 2000] : [4, 2000]
        const run = { replicas, options: { max, timeWindow: windowMs, denyMemory }, keys: drawn(keys, 20_000) }
        await redis.client.flushall()
        const stage = await startStage(name, run, redis)
        // Two windows and a half: where a run ends with a window, a few milliseconds decide on a whole quota more.
        const task = { kind: 'openLoop', connections: 16, rate: 400, warmUpMs: 0, ms: 2.5 * windowMs }
        const measured = await stage.measure(task)
        await stage.stop()
        const rate = measured.requests / measured.seconds
        const { roundTripMs } = measured
        const given = {
          replicas,
          keys,
          rate,
          max,
          windowMs,
          denyMemory,
          settleMs: 0,
          runMs: measured.seconds * 1000,
          roundTripMs,
        }
        const { requests, checks } = simulate(given)
        compared.push(compare(name, checks / requests, measured.reaching))
      }
    }
  }
  return { title: 'share of requests that asks Redis', compared }
}

function compare(what, predicted, measured) {
  const off = predicted / measured - 1
  return { what, predicted, measured, off, holds: Math.abs(off) <= TOLERANCE }
}
