/** A Redis of our own, and what can happen to it. Each fault lasts a while and is over when its promise resolves. */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { setTimeout as delay } from 'node:timers/promises'
import { Redis } from 'ioredis'
import { freePort } from '../redis.mjs'

const BINARY = process.env.REDIS_SERVER_BIN ?? 'redis-server'
/** Milliseconds that Redis is away. */
const AWAY_MS = 5000

export async function faultyRedis() {
  const port = await freePort()
  let server
  const start = () => {
    const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
    server = spawn(BINARY, args, { stdio: 'ignore' })
  }
  const end = async signal => {
    const ended = once(server, 'exit')
    server.kill(signal)
    await ended
  }
  start()
  const client = new Redis(port, '127.0.0.1', { retryStrategy: () => 50, maxRetriesPerRequest: null })
  client.on('error', () => {})
  await client.ping()

  /** Does something again and again while the fault lasts. */
  const meanwhile = async (pauseMs, act) => {
    for (const until = performance.now() + AWAY_MS; performance.now() < until; await delay(pauseMs)) await act()
  }
  const faults = {
    async 'killed, and started again empty'() {
      await end('SIGKILL')
      await delay(AWAY_MS)
      start()
    },
    async frozen() {
      server.kill('SIGSTOP')
      await delay(AWAY_MS)
      server.kill('SIGCONT')
    },
    'emptied again and again': () => meanwhile(100, () => client.flushall()),
    'made to forget its scripts': () => meanwhile(20, () => client.script('FLUSH')),
    'slow, by 60 ms': () => meanwhile(10, () => client.call('CLIENT', 'PAUSE', '60').then(() => delay(60))),
    async 'restarted at once'() {
      await end('SIGTERM')
      start()
    },
    async full() {
      await client.config('SET', 'maxmemory-policy', 'noeviction', 'maxmemory', '1mb')
      await delay(AWAY_MS)
      await client.config('SET', 'maxmemory', '0')
    },
    async 'a replica, which takes no writes'() {
      await client.replicaof('127.0.0.1', '1')
      await delay(AWAY_MS)
      await client.replicaof('NO', 'ONE')
    },
    'cut off from its clients': () =>
      meanwhile(500, () => client.call('CLIENT', 'KILL', 'TYPE', 'normal', 'SKIPME', 'yes')),
  }
  return {
    url: `redis://127.0.0.1:${port}`,
    client,
    faults: Object.entries(faults),
    async stop() {
      client.disconnect()
      await end('SIGKILL')
    },
  }
}
