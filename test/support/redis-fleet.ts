import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { writeFile } from 'node:fs/promises'
import { createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { Redis } from 'ioredis'
import type { Test } from 'tap'

const BINARY = process.env.REDIS_SERVER_BIN ?? 'redis-server'

/** One Redis process of a test's own. */
export interface RedisProcess {
  readonly port: number
  /** Sends a signal: SIGKILL ends it, SIGSTOP freezes it, SIGCONT wakes it. */
  signal(name: NodeJS.Signals): void
  /** Ends it and waits until it has. */
  kill(): Promise<void>
  /** A client of the test's own, closed with the test. */
  client(): Redis
}

/**
 * A port that nobody listens on, apart from all cluster bus ports (+10000), and below the ports that systems give to
 * connections: one of these may take it while nobody listens, even one that seeks that very port.
 */
export async function freePort(): Promise<number> {
  for (;;) {
    const port = 12_000 + Math.floor(Math.random() * 10_000)
    const server = createServer().listen(port, '127.0.0.1')
    const isFree = await once(server, 'listening').then(
      () => true,
      () => false,
    )
    server.close()
    if (!isFree) continue
    await once(server, 'close')
    return port
  }
}

/** Asks again until it is so; for at most `ms` milliseconds. */
export async function until(what: string, condition: () => Promise<boolean>, ms = 30_000): Promise<void> {
  const end = Date.now() + ms
  for (;;) {
    if (await condition().catch(() => false)) return
    if (Date.now() > end) throw new Error(`still not so after ${ms} ms: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 20))
  }
}

export interface RedisSettings {
  readonly args?: readonly string[]
  /** The configuration of a Sentinel. */
  readonly sentinel?: string
  /** For one that was there before. */
  readonly port?: number
}

/** Freezes a server, and waits until it truly stands still. */
export async function freeze(server: RedisProcess): Promise<void> {
  const client = server.client()
  await client.ping()
  server.signal('SIGSTOP')
  await until('nobody answers', async () => {
    const silence = new Promise<boolean>(resolve => setTimeout(resolve, 60, true))
    return Promise.race([silence, client.ping().then(() => false)])
  })
}

/** Starts a Redis (or, with `sentinel`, a Sentinel), on a free port unless it is given one; it ends with the test. */
export async function startRedis(t: Test, options: RedisSettings = {}): Promise<RedisProcess> {
  if (options.port !== undefined) {
    const redis = await launch(t, options.port, options)
    if (redis === undefined) throw new Error(`port ${options.port} was taken meanwhile`)
    return redis
  }
  for (;;) {
    const redis = await launch(t, await freePort(), options)
    if (redis !== undefined) return redis
  }
}

/** Undefined where another process was quicker to take the port. */
async function launch(t: Test, port: number, options: RedisSettings): Promise<RedisProcess | undefined> {
  const folder = mkdtempSync(join(tmpdir(), 'redis-fleet-'))
  const base = ['--port', `${port}`, '--bind', '127.0.0.1', '--dir', folder, '--daemonize', 'no']
  let args = [...base, '--save', '', '--appendonly', 'no', ...(options.args ?? [])]
  if (options.sentinel !== undefined) {
    const file = join(folder, 'sentinel.conf')
    await writeFile(file, options.sentinel)
    args = [file, '--sentinel', ...base]
  }
  const child = spawn(BINARY, args, { stdio: 'ignore' })
  const ended = once(child, 'exit')
  const clients: Redis[] = []
  const redis: RedisProcess = {
    port,
    signal: name => {
      child.kill(name)
    },
    kill: async () => {
      child.kill('SIGKILL')
      await ended
    },
    client: () => {
      // One that is loading its data is told apart by what it answers.
      const client = new Redis(port, '127.0.0.1', { enableReadyCheck: false })
      client.on('error', () => {})
      clients.push(client)
      return client
    },
  }
  t.teardown(async () => {
    for (const client of clients) client.disconnect()
    await redis.kill()
    rmSync(folder, { recursive: true, force: true })
  })
  const probe = redis.client()
  let info = ''
  await until(`redis on port ${port} answers`, async () => {
    info = await probe.info('server')
    return true
  })
  return info.includes(`process_id:${child.pid}\r`) ? redis : undefined
}

export interface RedisCluster {
  /** Masters first, then the replica of each, in the same order. */
  readonly nodes: readonly RedisProcess[]
  /** Of each node the port that speaks TLS, where it has a certificate. */
  readonly tlsPorts: readonly number[]
}

export interface ClusterSettings {
  readonly masters?: number
  /** Whether each master has a replica. */
  readonly replicas?: boolean
  /** How long the nodes wait for one of them before they call it dead, in milliseconds. */
  readonly nodeTimeoutMs?: number
  /** File of a certificate and its key: the nodes speak TLS as well, on ports of their own. */
  readonly certificate?: string
}

/** Three masters with a replica each, unless told otherwise; all slots served. */
export async function startCluster(
  t: Test,
  { masters = 3, replicas = true, nodeTimeoutMs = 1000, certificate }: ClusterSettings = {},
): Promise<RedisCluster> {
  const timeout = ['--cluster-node-timeout', `${nodeTimeoutMs}`]
  const args = ['--cluster-enabled', 'yes', ...timeout, '--cluster-replica-validity-factor', '0']
  const followers = replicas ? masters : 0
  const count = masters + followers
  const tlsPorts: number[] = []
  for (let index = 0; index < count && certificate !== undefined; index++) tlsPorts.push(await freePort())
  const nodes = await Promise.all(
    Array.from({ length: count }, (_, index) =>
      startRedis(t, { args: [...args, ...(certificate === undefined ? [] : tlsArgs(certificate, tlsPorts[index]))] }),
    ),
  )
  const clients = nodes.map(node => node.client())
  for (const [index, client] of clients.entries()) await client.call('CLUSTER', 'SET-CONFIG-EPOCH', index + 1)
  for (const client of clients.slice(1)) {
    await client.call('CLUSTER', 'MEET', '127.0.0.1', tlsPorts[0] ?? (nodes[0] as RedisProcess).port)
  }
  const firstSlot = (index: number) => Math.round((index * 16_384) / masters)
  for (let index = 0; index < masters; index++) {
    await (clients[index] as Redis).call('CLUSTER', 'ADDSLOTSRANGE', firstSlot(index), firstSlot(index + 1) - 1)
  }
  for (let index = 0; index < followers; index++) {
    const id = await (clients[index] as Redis).call('CLUSTER', 'MYID')
    const replica = clients[index + masters] as Redis
    await until('the nodes have met', async () => `${await replica.call('CLUSTER', 'NODES')}`.includes(`${id}`))
    await until('the replica follows', async () => (await replica.call('CLUSTER', 'REPLICATE', id as string)) === 'OK')
  }
  await until('every node sees the whole cluster', async () => {
    const views = await Promise.all(
      clients.map(async client => [
        `${await client.call('CLUSTER', 'INFO')}`,
        `${await client.call('CLUSTER', 'NODES')}`,
        await client.info('replication'),
      ]),
    )
    return views.every(
      ([info = '', list = '', replication = '']) =>
        info.includes('cluster_state:ok') &&
        list.match(/ connected/g)?.length === nodes.length &&
        (list.match(/slave/g)?.length ?? 0) === followers &&
        (replication.includes('role:master') || replication.includes('master_link_status:up')),
    )
  })
  return { nodes, tlsPorts }
}

const tlsArgs = (certificate: string, port: number | undefined): string[] => [
  ...['--tls-port', `${port}`, '--tls-auth-clients', 'no', '--tls-cluster', 'yes', '--tls-replication', 'yes'],
  ...['--tls-cert-file', certificate, '--tls-key-file', certificate, '--tls-ca-cert-file', certificate],
]

export interface RedisSentinels {
  readonly master: RedisProcess
  readonly replica: RedisProcess
  readonly sentinels: readonly RedisProcess[]
  readonly name: string
}

/** A master, a replica and three Sentinels that promote it within about a second. */
export async function startSentinels(t: Test): Promise<RedisSentinels> {
  const name = 'limits'
  const master = await startRedis(t)
  const replica = await startRedis(t, { args: ['--replicaof', `127.0.0.1 ${master.port}`] })
  const probe = replica.client()
  await until('the replica follows', async () => (await probe.info('replication')).includes('master_link_status:up'))
  const sentinel = [
    `sentinel monitor ${name} 127.0.0.1 ${master.port} 2`,
    `sentinel down-after-milliseconds ${name} 500`,
    `sentinel failover-timeout ${name} 3000`,
    `sentinel parallel-syncs ${name} 1`,
    '',
  ].join('\n')
  const sentinels = await Promise.all([1, 2, 3].map(() => startRedis(t, { sentinel })))
  const clients = sentinels.map(node => node.client())
  await until('the Sentinels know each other and the replica', async () => {
    const views = (await Promise.all(clients.map(client => client.call('SENTINEL', 'MASTER', name)))) as string[][]
    return views.every(view => {
      const field = (key: string) => view[view.indexOf(key) + 1]
      return field('num-other-sentinels') === '2' && field('num-slaves') === '1'
    })
  })
  return { master, replica, sentinels, name }
}
