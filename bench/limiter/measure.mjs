import { startChild } from '../child.mjs'
import { takeRounds } from '../rounds.mjs'
import { contenders } from './contenders.mjs'
import { KEY_HEADER, scenarios } from './scenarios.mjs'

const CONNECTIONS = 64

/**
 * One scenario: all contenders stand ready, each in a process of its own, and are measured in turn.
 *
 * `ms`: a slice, after `warmUpMs`, which is not counted. `warmUpFirstMs`: for each contender before the first round.
 * `profile`: a folder for CPU profiles of the servers. For the others see `takeRounds`.
 *
 * @param {{ scenarioName: string, names: string[], rounds: number, ms: number, warmUpMs: number, warmUpFirstMs: number,
 *   calm: number, retakes: number, until: number, profile?: string }} plan
 */
export async function measure(plan, { redis, load, progress }) {
  const scenario = scenarios[plan.scenarioName]
  await redis.client.flushall()
  const servers = await startServers(plan, redis)
  try {
    const problems = []
    for (const name of plan.names) {
      problems.push(...(await warmUp(name, scenario, plan, servers.get(name), load)))
      progress(`${plan.scenarioName}, warming up, ${name}`)
    }
    const messages = messagesOf(scenario.keys)
    const { rate } = scenario
    const taken = await takeRounds(
      { ...plan, title: plan.scenarioName },
      {
        servers,
        load,
        redis,
        progress,
        taskOf: round => ({
          kind: rate === undefined ? 'closedLoop' : 'openLoop',
          messages,
          connections: CONNECTIONS,
          rate,
          warmUpMs: plan.warmUpMs,
          ms: plan.ms,
          seed: round + 1,
        }),
        check: slice => checkSlice(slice, scenario),
      },
    )
    return { slices: taken.slices, problems: [...problems, ...taken.problems] }
  } finally {
    await load.ask({ kind: 'hangUp' })
    await Promise.all([...servers.values()].map(server => server.stop()))
  }
}

const messagesOf = keys => keys.map(key => `GET / HTTP/1.1\r\nhost: 127.0.0.1\r\n${KEY_HEADER}: ${key}\r\n\r\n`)

async function startServers({ names, scenarioName, profile }, redis) {
  const module = new URL('server.mjs', import.meta.url)
  const servers = await Promise.all(
    names.map(name => {
      const file = `${scenarioName}-${name}.cpuprofile`
      const profiled = ['--cpu-prof', '--cpu-prof-dir', profile, '--cpu-prof-name', file]
      return startChild(module, [name, scenarioName, redis.port], profile === undefined ? [] : profiled)
    }),
  )
  return new Map(names.map((name, index) => [name, servers[index]]))
}

/** Uses up the quota of the hot keys, counting what passes, and lets the compiler of Node do its work. */
async function warmUp(name, scenario, plan, server, load) {
  const task = { kind: 'closedLoop', port: server.ready.port, connections: CONNECTIONS }
  const problems = []
  if (scenario.hot !== undefined) {
    const quota = scenario.policies[0].max * scenario.hot.length
    const { statuses } = await load.ask({ ...task, messages: messagesOf(scenario.hot), requests: quota * 2 })
    const passed = statuses[200] ?? 0
    const wanted = contenders[name].store === 'none' ? 0 : quota
    if (passed !== wanted) {
      problems.push(`${plan.scenarioName}: ${name}: ${passed} requests of hot keys passed, not ${wanted}`)
    }
  }
  await load.ask({ ...task, messages: messagesOf(scenario.keys), warmUpMs: 0, ms: plan.warmUpFirstMs })
  return problems
}

/** What a slice must show for its figures to mean anything. */
function checkSlice({ received, statuses }, { denied }) {
  const problems = []
  const share = (statuses[429] ?? 0) / received
  if (Math.abs(share - denied) > (denied === 0.5 ? 0.01 : 0)) {
    problems.push(`${(share * 100).toFixed(2)}% were denied, not ${denied * 100}%`)
  }
  const others = Object.keys(statuses).filter(status => status !== '200' && status !== '429')
  if (others.length > 0) problems.push(`answered ${others.join(', ')}`)
  return problems
}
