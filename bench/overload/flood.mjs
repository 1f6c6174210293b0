import { connect } from 'node:net'
import { startChild } from '../child.mjs'
import { Histogram } from '../histogram.mjs'
import { capacityOf, messagesOf, settingsOf, startContender, summariseSurges, surgeOf } from './measure.mjs'

/** What is offered, in shares of what bare Fastify answers. */
export const SHARES = [0.1, 0.25, 0.5, 1]
const CONNECTIONS = 64
/** Milliseconds between two looks at the service. */
const LOOK_MS = 50

/**
 * The lighter model, asked for shares of what bare Fastify refuses of the same requests on this machine, in the same run
 * and by the same generator. Meanwhile `/health/live` and `/metrics` are asked, on `OPS_PORT` and where the requests go.
 *
 * @param {{ deadlineMs: number }} scenario
 * @param {string} dir the folder of the model
 * @param {{ rounds: number, capacityMs: number, steps: number }} plan
 */
export async function measureFlood(scenario, dir, plan, { load, say }) {
  say('bare Fastify')
  const bare = await startChild(new URL('../refusals/bare.mjs', import.meta.url), [])
  const task = { kind: 'closedLoop', port: bare.ready.port, messages: messagesOf(), connections: CONNECTIONS }
  const { perSecond } = await load.ask({ ...task, warmUpMs: 1000, ms: plan.capacityMs })
  await bare.stop()
  const server = await startContender('protected', dir, { ...settingsOf(scenario), OPS_PORT: '0' })
  const { port, opsPort } = server.ready
  const surges = SHARES.map(() => [])
  try {
    say('capacity')
    const capacity = await capacityOf(server, scenario, { load, ms: plan.capacityMs, steps: plan.steps })
    for (let round = 0; round < plan.rounds; round++) {
      for (const [index, share] of SHARES.entries()) {
        say(`round ${round + 1} of ${plan.rounds}, ${share} of bare Fastify`)
        const looks = [watch(opsPort, '/health/live'), watch(port, '/health/live'), watch(opsPort, '/metrics')]
        const factor = (share * perSecond) / capacity
        const quickMs = scenario.deadlineMs
        const surge = await surgeOf(server, scenario, { load, seed: round + 1, capacity, factor, quickMs, plan })
        const [opsP99, mainP99, metricsP99] = await Promise.all(looks.map(look => look.stop()))
        surges[index].push({ ...surge, factor: share, opsP99, mainP99, metricsP99 })
      }
    }
    return { bare: perSecond, capacity, loads: surges.map(summariseSurges) }
  } finally {
    await server.stop()
    await load.ask({ kind: 'hangUp' })
  }
}

/** Asks for a page over a connection of its own, and begins anew where that ends. Gives the p99 of the answers in ms. */
function watch(port, path) {
  const latencies = new Histogram()
  let stopped = false
  let socket
  const look = async () => {
    while (!stopped) {
      const since = performance.now()
      await new Promise(resolve => {
        socket = connect({ port, host: '127.0.0.1' })
        socket.on('error', resolve)
        socket.on('close', resolve)
        socket.on('data', () => {})
        socket.write(`GET ${path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n`)
      })
      if (!stopped) latencies.add((performance.now() - since) * 1000)
      await new Promise(resolve => setTimeout(resolve, LOOK_MS))
    }
  }
  const looking = look()
  return {
    async stop() {
      stopped = true
      socket.destroy()
      await looking
      return latencies.quantile(0.99)
    },
  }
}
