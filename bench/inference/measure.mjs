import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { startChild } from '../child.mjs'
import { takeRounds } from '../rounds.mjs'
import { contenders } from './contenders.mjs'
import { post, scenarios } from './scenarios.mjs'

const CONNECTIONS = 64
/**
 * Until the compiler has seen to what is hot: the first seconds are a twentieth slower than the later ones. Each server
 * is warmed up as soon as it is started: one that had nothing to do for 8 s, after which V8 collects and shrinks its heap,
 * was slower from then on, so the contender that waited the longest for the others would come off worst.
 */
const WARM_UP_MS = 4000
const MODELS = fileURLToPath(new URL('../../models', import.meta.url))

/**
 * Throughput and latency of one model, 64 callers with a row each.
 *
 * @param {{ scenarioName: string, names: string[], rounds: number, ms: number, calm: number, retakes: number,
 *   until: number }} plan
 */
export async function measureModel(plan, { redis, load, progress }) {
  const scenario = scenarios[plan.scenarioName]
  await redis.client.flushall()
  const messages = scenario.messages()
  const servers = await startServers(plan.names, MODELS, scenario.model, redis, {
    whenStarted: async (name, { ready: { port } }) => {
      progress(`${plan.scenarioName}, warming up, ${name}`)
      await load.ask({ kind: 'closedLoop', port, messages, connections: CONNECTIONS, warmUpMs: 0, ms: WARM_UP_MS })
    },
  })
  try {
    return await takeRounds(
      { ...plan, title: plan.scenarioName },
      {
        servers,
        load,
        redis,
        progress,
        taskOf: () => ({ kind: 'closedLoop', messages, connections: CONNECTIONS, warmUpMs: 50, ms: plan.ms }),
        check: ({ statuses }) =>
          Object.keys(statuses)
            .filter(status => status !== '200')
            .map(status => `answered ${status}`),
      },
    )
  } finally {
    await load.ask({ kind: 'hangUp' })
    await stopAll(servers)
  }
}

/**
 * What everybody else gets while a large model is saturated: a health check and, where there is a limiter, a caller
 * whose quota is used up, asked for by a process of their own, 50 times a second each. Gives latencies in ms.
 *
 * @param {{ models: string, inputs: number, names: string[], ms: number }} plan
 */
export async function measureNeighbours({ models, inputs, names, ms }, { redis, load, progress }) {
  const quota = 1000
  const settings = { RATE_LIMIT_MAX: String(quota), TRUST_PROXY: '127.0.0.1' }
  const servers = await startServers(names, models, 'large', redis, { settings })
  const probe = await startChild(new URL('../load.mjs', import.meta.url), [])
  const features = Array.from({ length: inputs }, (_, index) => index % 17)
  const greedy = '10.9.9.9'
  const health = ['GET /health/live HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n']
  const denied = [post({ model: 'large', features }, greedy)]
  // Nobody else runs out of quota.
  const many = Array.from({ length: 4096 }, (_, index) => post({ features }, `10.2.${index >> 8}.${index & 255}`))
  const rows = {}
  const problems = []
  try {
    for (const name of names) {
      progress(`a large model saturated, ${name}`)
      const { port } = servers.get(name).ready
      const limited = contenders[name].module === 'service.mjs'
      if (limited) {
        // Refused bodies count, and are quick.
        const wrong = [post({ model: 'large', features: [] }, greedy)]
        await load.ask({ kind: 'closedLoop', port, messages: wrong, connections: 8, requests: quota })
      }
      const saturated = load.ask({
        kind: 'closedLoop',
        port,
        messages: many,
        connections: CONNECTIONS,
        warmUpMs: 500,
        ms: limited ? 2 * ms + 1500 : ms + 1500,
      })
      await new Promise(resolve => setTimeout(resolve, 1000))
      const paced = { kind: 'openLoop', port, connections: 4, rate: 50, warmUpMs: 0, ms, seed: 1 }
      const live = await probe.ask({ ...paced, messages: health })
      const refused = limited ? await probe.ask({ ...paced, messages: denied }) : undefined
      const { perSecond, statuses } = await saturated
      if (Object.keys(statuses).join() !== '200') problems.push(`saturated: ${name}: ${JSON.stringify(statuses)}`)
      if (refused !== undefined && Object.keys(refused.statuses).join() !== '429') {
        problems.push(`saturated: ${name}: the denied got ${JSON.stringify(refused.statuses)}`)
      }
      rows[name] = { perSecond, live: latencies(live), refused: refused && latencies(refused) }
    }
  } finally {
    await load.ask({ kind: 'hangUp' })
    await probe.stop()
    await stopAll(servers)
  }
  return { rows, problems }
}

const latencies = ({ p50, p99, received }) => ({ p50, p99, received })

/** One after the other; the next is not started before `whenStarted` has resolved. */
async function startServers(names, models, model, redis, { settings = {}, whenStarted = async () => {} }) {
  process.env.BENCH_SETTINGS = JSON.stringify(settings)
  process.env.ORT_DISABLE_TELEMETRY = '1'
  const servers = new Map()
  // The one that only parses is told by another what to answer.
  for (const name of [...names].sort((a, b) => Number(a === 'parse') - Number(b === 'parse'))) {
    const { module, redis: inRedis } = contenders[name]
    const args = [models, model, inRedis ? String(redis.port) : '0']
    if (name === 'parse') args.push(await answerOf(servers.values().next().value, model))
    const server = await startChild(new URL(module, import.meta.url), args)
    servers.set(name, server)
    await whenStarted(name, server)
  }
  return servers
}

/** The bytes of the answer to a sample. */
async function answerOf(server, model) {
  if (server === undefined) return '{}'
  const { sample } = JSON.parse(readFileSync(`${MODELS}/${model}/model.json`, 'utf8'))
  const response = await fetch(`http://127.0.0.1:${server.ready.port}/v1/predict`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ model, features: sample }),
  })
  return response.text()
}

const stopAll = servers => Promise.all([...servers.values()].map(server => server.stop()))
