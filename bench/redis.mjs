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

/** Contenders count in databases of their own. */
const DATABASES = 64

/**
 * A Redis of our own on the loopback, without persistence: `program`, or where it is left out REDIS_SERVER_BIN, or
 * `redis-server` or `valkey-server` on the PATH. Never the one at REDIS_URL, since all that it holds would be lost.
 *
 * @param {string} [program]
 */
export async function startRedis(program) {
  const port = await freePort()
  const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  args.push('--databases', String(DATABASES))
  const programs = program === undefined ? [process.env.REDIS_SERVER_BIN, 'redis-server', 'valkey-server'] : [program]
  let server
  for (const each of programs) {
    if (each !== undefined) server ??= await tryServer(each, args)
  }
  if (server === undefined) {
    throw new Error(
      program === undefined
        ? 'neither redis-server nor valkey-server is on the PATH'
        : `'${program}' cannot be started: name the program of a Redis or Valkey server`,
    )
  }
  // It does not outlive a run that fails.
  process.once('exit', () => server.kill('SIGKILL'))
  const client = new Redis(port, '127.0.0.1', { retryStrategy: () => 20, maxRetriesPerRequest: 200 })
  client.on('error', () => {})
  await client.ping().catch(error => {
    client.disconnect()
    throw new Error(`what '${program ?? 'redis-server'}' started answers no PING: ${error.message}`)
  })
  return {
    port,
    client,
    version: () => versionOf(client),
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

/** Valkey also names the version of Redis that it stands in for. */
async function versionOf(client) {
  const valkey = await infoOf(client, 'server', 'valkey_version')
  return valkey === undefined ? await infoOf(client, 'server', 'redis_version') : `${valkey} (Valkey)`
}

async function infoOf(client, section, field) {
  return new RegExp(`^${field}:(.*)\r?$`, 'm').exec(await client.info(section))?.[1]?.trim()
}

function numberOf(info, field) {
  return Number(new RegExp(`^${field}:([\\d.]+)`, 'm').exec(info)?.[1])
}
