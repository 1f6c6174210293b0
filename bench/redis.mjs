import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createServer } from 'node:net'
import { Redis } from 'ioredis'

/** A port that nobody listens on. */
export async function freePort() {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const { port } = server.address()
  server.close()
  await once(server, 'close')
  return port
}

/**
 * A Redis of our own on the loopback, without persistence: REDIS_SERVER_BIN, or `redis-server` or `valkey-server` on
 * the PATH. Never the one at REDIS_URL, since all that it holds would be lost.
 */
export async function startRedis() {
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  let server
  for (const program of [process.env.REDIS_SERVER_BIN, 'redis-server', 'valkey-server']) {
    if (program !== undefined) server ??= await tryServer(program, args)
  }
  if (server === undefined) throw new Error('neither redis-server nor valkey-server is on the PATH')
  const client = new Redis(port, '127.0.0.1', { retryStrategy: () => 20, maxRetriesPerRequest: 200 })
  client.on('error', () => {})
  await client.ping()
  return {
    port,
    client,
    version: () => infoOf(client, 'server', 'redis_version'),
    /** Microseconds of CPU used since the start. */
    async cpu() {
      const info = await client.info('cpu')
      return (numberOf(info, 'used_cpu_user') + numberOf(info, 'used_cpu_sys')) * 1e6
    },
    /** Calls of scripts since the start. */
    async scriptCalls() {
      return Number(/^cmdstat_evalsha:calls=(\d+)/m.exec(await client.info('commandstats'))?.[1] ?? 0)
    },
    async stop() {
      client.disconnect()
      server.kill('SIGTERM')
      await once(server, 'exit')
    },
  }
}

/** @param {string} command @param {string[]} args */
async function tryServer(command, args) {
  const server = spawn(command, args, { stdio: 'ignore' })
  const [failed] = await Promise.race([
    once(server, 'spawn').then(() => [undefined]),
    once(server, 'error'), // not installed
  ]).catch(error => [error])
  return failed === undefined ? server : undefined
}

async function infoOf(client, section, field) {
  return new RegExp(`^${field}:(.*)\r?$`, 'm').exec(await client.info(section))?.[1]?.trim()
}

function numberOf(info, field) {
  return Number(new RegExp(`^${field}:([\\d.]+)`, 'm').exec(info)?.[1])
}
