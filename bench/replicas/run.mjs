// npm run replicas: eight replicas, one key of 1,000 per 10 s, a minute under full load; then again with Redis frozen
// for 20 s in the middle. Prints what was let through; ends with 1 where that was too much or too little.
import { spawn } from 'node:child_process'
import { Redis } from 'ioredis'
import { measureReplicas } from './measure.mjs'

const port = Number(process.env.REPLICAS_REDIS_PORT ?? 7399)
const binary = process.env.REDIS_SERVER_BIN ?? 'redis-server'
const setup = { replicas: 8, max: 1000, windowMs: 10_000, runMs: 60_000 }

const child = spawn(binary, ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no'], {
  stdio: 'ignore',
})
try {
  const probe = new Redis(port, '127.0.0.1')
  probe.on('error', () => {})
  await probe.ping()
  const redis = { port, signal: name => child.kill(name) }
  const steady = await measureReplicas({ redis, ...setup })
  console.log('steady', steady)
  await probe.flushall()
  const frozen = await measureReplicas({ redis, ...setup, freeze: { afterMs: 20_000, forMs: 20_000 } })
  console.log('frozen for 20 s', frozen)
  probe.disconnect()
  const { max } = setup
  const holds =
    steady.mostInLog <= max &&
    steady.share >= 0.98 &&
    frozen.mostInLog <= max &&
    frozen.mostInWindowIntoFreeze <= 1.25 * max
  if (!holds) process.exitCode = 1
} finally {
  child.kill('SIGCONT')
  child.kill('SIGKILL')
}
