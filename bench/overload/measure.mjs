import { readFileSync } from 'node:fs'
import { startChild } from '../child.mjs'
import { post } from '../inference/scenarios.mjs'
import { median } from '../summary.mjs'
import { INPUTS } from './model.mjs'
import { contenders } from './scenarios.mjs'

/** A request nobody answered for so many deadlines is given up. */
const GIVE_UP = 5
/** Opened before a surge: one for each request that comes within a deadline, but no more than a system will have. */
const MOST_CONNECTIONS = 4000
/** Load before and after a surge, in multiples of the capacity. */
const NORMAL = 0.5
const MEBIBYTE = 2 ** 20

const features = Array.from({ length: INPUTS }, (_, index) => index % 17)

/** A contender in a process of its own, with what it is asked. */
export async function startContender(name, models, settings = {}) {
  process.env.BENCH_SETTINGS = JSON.stringify(settings)
  process.env.ORT_DISABLE_TELEMETRY = '1'
  const module = new URL(`../inference/${contenders[name].module}`, import.meta.url)
  return startChild(module, [models, 'busy', '0'])
}

/** The same row from everybody, or from callers of the given addresses in turn. */
export const messagesOf = (addresses = [undefined]) =>
  addresses.map(address => post({ model: 'busy', features }, address))

/** What the service is told; quotas are not what is measured. */
export const settingsOf = ({ deadlineMs }) => ({ REQUEST_TIMEOUT_MS: String(deadlineMs), RATE_LIMIT_MAX: '1000000000' })

/** One open-loop task over some streams. */
export async function offer(server, { deadlineMs }, { load, seed, quickMs, obey, streams }) {
  const began = performance.now()
  const most = streams.reduce((sum, { phases }) => sum + Math.max(...phases.map(({ rate }) => rate)), 0)
  const connections = Math.min(MOST_CONNECTIONS, Math.ceil((most * deadlineMs) / 1000))
  const giveUpMs = GIVE_UP * deadlineMs
  const task = { kind: 'surge', port: server.ready.port, connections, deadlineMs, giveUpMs, seed, streams }
  const { streams: results, cpu } = await load.ask({ ...task, quickMs, obey })
  return { results, generatorShare: cpu / 1000 / (performance.now() - began) }
}

/** Milliseconds that one row takes when it is alone. */
export async function rowMsOf(server, { load, ms }) {
  const task = {
    kind: 'closedLoop',
    port: server.ready.port,
    messages: messagesOf(),
    connections: 1,
    warmUpMs: 300,
    ms,
  }
  return (await load.ask(task)).p50
}

/**
 * The highest rate, in requests per second, of which 99 of 100 are answered within the deadline: found in the open loop,
 * from what a closed loop reaches. What else the machine does can only hide capacity, so a rate has two tries.
 */
export async function capacityOf(server, scenario, { load, ms, steps }) {
  const task = {
    kind: 'closedLoop',
    port: server.ready.port,
    messages: messagesOf(),
    connections: 16,
    warmUpMs: 300,
    ms,
  }
  const { perSecond, received, statuses } = await load.ask(task)
  let rate = (perSecond * (statuses[200] ?? 0)) / received
  let [low, high] = [0, Number.POSITIVE_INFINITY]
  for (let step = 0; step < steps; step++) {
    const streams = [{ messages: messagesOf(), phases: [{ rate, ms }] }]
    const holds = async seed => {
      const { results } = await offer(server, scenario, { load, seed, streams })
      return results[0][0].good >= 0.99 * results[0][0].sent
    }
    if ((await holds(step)) || (await holds(steps + step))) low = rate
    else high = rate
    if (high === Number.POSITIVE_INFINITY) rate = 1.3 * low
    else rate = low === 0 ? 0.7 * high : (low + high) / 2
  }
  return low === 0 ? rate : low
}

/** One surge: the normal load, `factor` times the capacity, and the normal load again. */
export async function surgeOf(server, scenario, { load, seed, capacity, factor, quickMs, plan }) {
  const memory = watchMemory(server.pid)
  const phases = [
    { rate: NORMAL * capacity, ms: plan.beforeMs },
    { rate: factor * capacity, ms: plan.ms },
    { rate: NORMAL * capacity, ms: plan.afterMs },
  ]
  const { results, generatorShare } = await offer(server, scenario, {
    load,
    seed,
    quickMs,
    streams: [{ messages: messagesOf(), phases }],
  })
  const [[, during, after]] = results
  const perSecond = count => count / (plan.ms / 1000)
  return {
    factor,
    offered: perSecond(during.sent),
    goodput: perSecond(during.good),
    share: perSecond(during.good) / capacity,
    p50: during.p50,
    p99: during.p99,
    refused: during.refused / during.sent,
    refusalP50: during.refusalP50,
    refusalP99: during.refusalP99,
    late: during.late / during.sent,
    expired: during.expired / during.sent,
    unanswered: during.unanswered + after.unanswered,
    unansweredShare: during.unanswered / during.sent,
    other: during.other + after.other,
    normalAfterMs: after.normalAfterMs,
    generatorShare,
    ...memory.stop(),
  }
}

/**
 * What becomes of those who come back as they were told: a second of twice the capacity, half of it before and after.
 * Gives how many came back, and how many of them were then answered in time.
 */
export async function obeyedBy(server, scenario, { load, seed, capacity }) {
  const rate = NORMAL * capacity
  const phases = [
    { rate, ms: 500 },
    { rate: 2 * capacity, ms: 1000 },
    { rate, ms: 6000 },
  ]
  const { results } = await offer(server, scenario, {
    load,
    seed,
    obey: true,
    streams: [{ messages: messagesOf(), phases }],
  })
  return results[0][1].retries
}

/** The medians over the rounds; what may not happen at all is added up. */
export function summariseSurges(surges) {
  const sums = ['unanswered', 'other']
  return Object.fromEntries(
    Object.keys(surges[0]).map(field => {
      const values = surges.map(surge => surge[field])
      if (sums.includes(field)) return [field, values.reduce((sum, value) => sum + value, 0)]
      const known = values.filter(value => Number.isFinite(value))
      return [field, known.length * 2 > values.length ? median(known) : undefined]
    }),
  )
}

/** Mebibytes that a process holds, at first and at most; nothing where the system does not tell. */
function watchMemory(pid) {
  const first = residentOf(pid)
  let most = first
  const timer = setInterval(() => {
    most = Math.max(most, residentOf(pid))
  }, 100)
  return {
    stop() {
      clearInterval(timer)
      return { memoryBefore: first, memoryMost: most }
    },
  }
}

function residentOf(pid) {
  try {
    return (Number(/^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))?.[1]) * 1024) / MEBIBYTE
  } catch {
    return Number.NaN
  }
}
