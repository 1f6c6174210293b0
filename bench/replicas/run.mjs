// npm run replicas: eight replicas, one key of 1,000 per 10 s, a minute under full load: steady; with Redis frozen for
// 20 s in the middle; the same with a replica killed meanwhile; and with Redis killed, and started again empty. Prints
// what was let through; ends with 1 where that was too much or too little.
// Usage: npm run replicas [-- SCENARIO…]
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { Redis } from 'ioredis'
import { freePort } from '../redis.mjs'
import { measureReplicas } from './measure.mjs'

const port = Number(process.env.REPLICAS_REDIS_PORT ?? (await freePort()))
const binary = process.env.REDIS_SERVER_BIN ?? 'redis-server'
const setup = { replicas: 8, max: 1000, windowMs: 10_000, runMs: 60_000 }
const { max } = setup

let child
const start = async () => {
  const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  child = spawn(binary, args, { stdio: 'ignore' })
  const probe = new Redis(port, '127.0.0.1')
  probe.on('error', () => {})
  await probe.ping()
  probe.disconnect()
}
const kill = async () => {
  const ended = once(child, 'exit')
  child.kill('SIGCONT')
  child.kill('SIGKILL')
  await ended
}
const freeze = {
  afterMs: 20_000,
  forMs: 20_000,
  begin: async () => child.kill('SIGSTOP'),
  end: async () => child.kill('SIGCONT'),
}

/** The beginning of an outage has a bound of its own. */
const holds = ({ atBeginning, inMiddle, atEnd }) => atBeginning <= 1.25 * max && inMiddle <= max && atEnd <= max

const scenarios = {
  steady: { holds: ({ mostInLog, mostInWindow, share }) => mostInLog <= max && mostInWindow <= max && share >= 0.98 },
  frozen: { outage: freeze, holds },
  killed: {
    outage: freeze,
    killAfterMs: 10_000,
    holds: result => holds({ ...result, atEnd: result.atEndWithoutKilled }),
  },
  emptied: { outage: { ...freeze, forMs: 5000, begin: kill, end: start }, holds },
}

const chosen = process.argv.slice(2)
const unknown = chosen.filter(name => !Object.hasOwn(scenarios, name))
if (unknown.length > 0) {
  console.error(`unknown scenario: ${unknown.join(', ')}; there are ${Object.keys(scenarios).join(', ')}`)
  process.exit(2)
}
for (const [name, { holds, ...scenario }] of Object.entries(scenarios)) {
  if (chosen.length > 0 && !chosen.includes(name)) continue
  await start()
  try {
    const result = await measureReplicas({ redis: { port }, ...setup, ...scenario })
    console.log(name, result)
    if (holds(result)) continue
    console.error(`${name}: not what is promised`)
    process.exitCode = 1
  } finally {
    await kill()
  }
}
