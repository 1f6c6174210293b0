/** Two replicas that share their keys, of which one is cut off from Redis for ten seconds, in the ways that networks fail. */
import { type AddressInfo, connect, createServer, type Socket } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import t, { type Test } from 'tap'
import { buildService } from '../support/build.js'
import { adminOf, TOKEN } from '../support/keys.js'
import { limitsFile } from '../support/limits-file.js'
import { startRedis, until } from '../support/redis-fleet.js'

const skip = process.env.REDIS_SERVER_BIN === undefined ? 'there is no Redis program here to start' : false
const LIMITS = {
  anonymous: 'free',
  plans: { free: { policies: [{ name: 'requests', limit: 1000, window: '1 minute' }] } },
}
const DURABLE = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction']
const CUT_MS = 10_000
const SOON_MS = 1000

/** The way to a server. `silent`: what was sent is lost, and connections of before and meanwhile stay dead for ever. */
async function startNetwork(t: Test, port: number) {
  const sockets = new Set<Socket>()
  let state: 'whole' | 'silent' | 'closed' = 'whole'
  const server = createServer(client => {
    sockets.add(client)
    client.on('error', () => {})
    client.on('close', () => sockets.delete(client))
    if (state === 'closed') client.destroy()
    if (state !== 'whole') return void client.pause()
    const redis = connect(port, '127.0.0.1')
    redis.on('error', () => {})
    client.on('close', () => redis.destroy())
    redis.on('close', () => client.destroy())
    client.on('data', data => redis.write(data))
    redis.on('data', data => client.write(data))
  })
  await new Promise<void>(resolve => server.listen(0, '127.0.0.1', resolve))
  const end = () => {
    for (const socket of sockets) socket.destroy()
  }
  t.teardown(() => {
    server.close()
    end()
  })
  return {
    port: (server.address() as AddressInfo).port,
    cut: (how: 'silent' | 'closed') => {
      state = how
      if (how === 'closed') end()
      for (const socket of sockets) socket.removeAllListeners('data').pause()
    },
    restore: () => {
      state = 'whole'
    },
  }
}

/** How long it takes until a condition holds, in milliseconds, and by how much this process was late meanwhile. */
async function timed(what: string, condition: () => Promise<boolean>): Promise<{ ms: number; lateMs: number }> {
  const began = performance.now()
  let [lateMs, last] = [0, began]
  const timer = setInterval(() => {
    const now = performance.now()
    lateMs += Math.max(0, now - last - 15)
    last = now
  }, 10)
  await until(what, condition)
  clearInterval(timer)
  return { ms: performance.now() - began, lateMs }
}

for (const how of ['silent', 'closed', 'frozen'] as const) {
  t.test(`what was revoked meanwhile is known within a second of being back: ${how}`, { skip }, async t => {
    const redis = await startRedis(t, { args: DURABLE })
    const network = await startNetwork(t, redis.port)
    const open = async (port: number) => {
      const { ask } = await buildService(t, {
        ...{ KEYS_STORE: `redis://127.0.0.1:${port}`, ADMIN_TOKEN: TOKEN, LIMITS_FILE: limitsFile(t, LIMITS).path },
      })
      const isGood = async (key: string) =>
        (await ask({ url: '/v1/limits', headers: { 'x-api-key': key } })).statusCode === 200
      return { ask, isGood, ...adminOf(ask) }
    }
    const [one, two] = [await open(redis.port), await open(network.port)]
    const keyOfBoth = async () => {
      const made = await one.create({ owner: 'acme', plan: 'free' })
      await until('both know it', async () => (await one.isGood(made.key)) && (await two.isGood(made.key)))
      return made
    }
    const [first, second] = [await keyOfBoth(), await keyOfBoth()]
    await one.admin('DELETE', `keys/${first.id}`)
    t.notOk(await one.isGood(first.key), 'by whom it was revoked, at once')
    const connected = await timed('the other knows it', async () => !(await two.isGood(first.key)))
    t.ok(
      connected.ms < SOON_MS + connected.lateMs,
      `${connected.ms} ms, of which this process was late ${connected.lateMs}`,
    )

    if (how === 'frozen') {
      redis.signal('SIGSTOP')
      await delay(CUT_MS)
      redis.signal('SIGCONT')
      // 404: an attempt that was not answered was made.
      const isGone = async () => [204, 404].includes((await one.admin('DELETE', `keys/${second.id}`)).statusCode)
      await until('it takes changes', isGone)
    } else {
      network.cut(how)
      await delay(CUT_MS / 2)
      await one.admin('DELETE', `keys/${second.id}`)
      await delay(CUT_MS / 2)
      t.ok(await two.isGood(second.key), 'it cannot know')
      t.equal((await two.ask('/health/ready')).json().status, 'degraded')
      network.restore()
    }
    const back = await timed('it knows', async () => !(await two.isGood(second.key)))
    t.ok(back.ms < SOON_MS + back.lateMs, `${back.ms} ms, of which this process was late ${back.lateMs}`)
    await until('it is ready', async () => (await two.ask('/health/ready')).json().status === 'ready')
    await until(
      'it makes keys too',
      async () => (await two.admin('POST', 'keys', { owner: 'o', plan: 'free' })).statusCode === 201,
    )
  })
}
