/**
 * Runs a command with a Redis of its own: `node test/support/with-redis.mjs tap test/plugin`
 *
 * Where it comes from, first that works: REDIS_URL; redis-server or valkey-server on the PATH; a container, when Docker
 * answers; Debian's package (installed as root, else unpacked into a cache folder). The command sees REDIS_URL, and
 * REDIS_SERVER_BIN where there is a program to start more servers with. Whatever was started is stopped.
 */
import { spawn, spawnSync } from 'node:child_process'
import { accessSync, constants, existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs'
import { connect, createServer } from 'node:net'
import { constants as osConstants, tmpdir } from 'node:os'
import { delimiter, dirname, join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'

const root = dirname(dirname(dirname(fileURLToPath(import.meta.url))))
const cacheFolder = join(root, 'node_modules', '.cache', 'redis')
const image = 'redis:7-bookworm'

/** Called in turn before this process ends, however it ends; all synchronous. */
const cleanups = []

function fail(message) {
  process.stderr.write(`with-redis: ${message}\n`)
  process.exit(1)
}

const quiet = (command, args, options = {}) => spawnSync(command, args, { encoding: 'utf8', ...options })

function onPath(name) {
  for (const folder of (process.env.PATH ?? '').split(delimiter)) {
    if (folder === '') continue
    const file = join(folder, name)
    try {
      accessSync(file, constants.X_OK)
      return file
    } catch {}
  }
  return undefined
}

function freePort() {
  return new Promise((resolve, reject) => {
    const server = createServer()
    server.on('error', reject)
    server.listen(0, '127.0.0.1', () => {
      const { port } = server.address()
      server.close(() => resolve(port))
    })
  })
}

/** Whether a Redis says PONG there. */
function answers(port, host = '127.0.0.1') {
  return new Promise(resolve => {
    const socket = connect(port, host)
    const end = answer => {
      socket.destroy()
      resolve(answer)
    }
    socket.setTimeout(500, () => end(false))
    socket.on('error', () => end(false))
    socket.on('connect', () => socket.write('PING\r\n'))
    socket.on('data', data => end(data.toString().startsWith('+PONG')))
  })
}

async function untilItAnswers(port, ended, ms) {
  for (const until = Date.now() + ms; Date.now() < until && !ended(); ) {
    if (await answers(port)) return true
    await delay(10)
  }
  return false
}

/** Something listens at the address of REDIS_URL; who it is, the tests will see. */
function reachable(url) {
  return new Promise(resolve => {
    const { hostname, port } = new URL(url)
    const socket = connect(Number(port || 6379), hostname.replace(/^\[|\]$/g, ''))
    const end = answer => {
      socket.destroy()
      resolve(answer)
    }
    socket.setTimeout(3000, () => end(false))
    socket.on('error', () => end(false))
    socket.on('connect', () => end(true))
  })
}

async function given() {
  const url = process.env.REDIS_URL
  if (!url) return undefined
  for (const each of url.split(',')) {
    if (!URL.canParse(each.trim())) fail('REDIS_URL is not a URL; it takes redis://host:port')
    if (!(await reachable(each.trim()))) {
      fail(`nothing answers at REDIS_URL (${new URL(each.trim()).host}); start it, or unset REDIS_URL`)
    }
  }
  return { env: { REDIS_SERVER_BIN: onPath('redis-server') ?? onPath('valkey-server') } }
}

/** Starts a server program on a free port, in a folder that goes with it. */
async function startServer(binary, env = {}) {
  const folder = mkdtempSync(join(tmpdir(), 'with-redis-'))
  cleanups.push(() => rmSync(folder, { recursive: true, force: true, maxRetries: 5 }))
  let output = ''
  for (let attempt = 0; attempt < 3; attempt++) {
    const port = await freePort()
    const args = ['--port', String(port), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', folder]
    // In a group of its own: Ctrl-C is for the command, which still needs its store while it ends.
    const server = spawn(binary, args, {
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
      env: { ...process.env, ...env },
    })
    let ended = false
    output = ''
    for (const stream of [server.stdout, server.stderr])
      stream.on('data', data => (output = (output + data).slice(-2000)))
    server.on('error', error => {
      ended = true
      output += error.message
    })
    server.on('exit', () => (ended = true))
    cleanups.unshift(() => {
      // It holds nothing worth a farewell, and a test may have left it stopped.
      if (!ended) server.kill('SIGKILL')
    })
    if (await untilItAnswers(port, () => ended, 10_000)) return { port }
    server.kill('SIGKILL')
  }
  process.stderr.write(`with-redis: ${binary} does not start\n${output}`)
  return undefined
}

async function installed() {
  const binary = onPath('redis-server') ?? onPath('valkey-server')
  if (binary === undefined) return undefined
  const server = await startServer(binary)
  return server && { env: { REDIS_URL: `redis://127.0.0.1:${server.port}`, REDIS_SERVER_BIN: binary } }
}

async function container() {
  if (onPath('docker') === undefined || quiet('docker', ['info'], { timeout: 10_000 }).status !== 0) return undefined
  process.stderr.write(`with-redis: starting a container of ${image}\n`)
  const publish = '127.0.0.1::6379'
  const run = quiet('docker', [
    'run',
    '--rm',
    '-d',
    '-p',
    publish,
    image,
    'redis-server',
    '--save',
    '',
    '--appendonly',
    'no',
  ])
  if (run.status !== 0) {
    process.stderr.write(`with-redis: docker run: ${run.stderr}`)
    return undefined
  }
  const id = run.stdout.trim()
  cleanups.unshift(() => quiet('docker', ['rm', '-f', '-v', id]))
  const port = Number(/:(\d+)\s*$/m.exec(quiet('docker', ['port', id, '6379/tcp']).stdout)?.[1])
  if (!port || !(await untilItAnswers(port, () => false, 20_000))) return undefined
  return { env: { REDIS_URL: `redis://127.0.0.1:${port}` } }
}

async function debian() {
  if (onPath('apt-get') === undefined || onPath('dpkg') === undefined) return undefined
  if (process.getuid?.() === 0) {
    process.stderr.write('with-redis: installing the Debian package redis-server\n')
    // RUNLEVEL: the package must not start a service of its own.
    const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
    const args = ['install', '-y', '--no-install-recommends', 'redis-server']
    if (quiet('apt-get', args, { env }).status !== 0) {
      quiet('apt-get', ['update'], { env })
      quiet('apt-get', args, { env })
    }
    return installed()
  }
  const folder = unpacked() ?? unpack()
  if (folder === undefined) return undefined
  const binary = join(folder, 'usr', 'bin', 'redis-server')
  // None, where this machine has all that the program needs.
  const lib = join(folder, 'usr', 'lib')
  const libraries = (existsSync(lib) ? readdirSync(lib, { withFileTypes: true }) : [])
    .filter(entry => entry.isDirectory())
    .map(entry => join(lib, entry.name))
  const env = { LD_LIBRARY_PATH: [...libraries, process.env.LD_LIBRARY_PATH].filter(Boolean).join(delimiter) }
  const server = await startServer(binary, env)
  // Tests that start servers of their own need the libraries as well.
  return server && { env: { ...env, REDIS_URL: `redis://127.0.0.1:${server.port}`, REDIS_SERVER_BIN: binary } }
}

function unpacked() {
  return existsSync(join(cacheFolder, 'usr', 'bin', 'redis-server')) ? cacheFolder : undefined
}

/** The package and what it needs and this machine lacks, without installing anything. */
function unpack() {
  process.stderr.write(`with-redis: unpacking the Debian package redis-server into ${cacheFolder}\n`)
  const work = mkdtempSync(join(tmpdir(), 'with-redis-apt-'))
  cleanups.push(() => rmSync(work, { recursive: true, force: true }))
  let options = []
  const missing = () => {
    const plan = quiet('apt-get', [...options, '-s', '--no-install-recommends', 'install', 'redis-server'])
    return [...(plan.stdout ?? '').matchAll(/^Inst (\S+)/gm)].map(match => match[1])
  }
  let packages = missing()
  if (packages.length === 0) {
    // No package lists: fetch them, into a folder that may be written.
    for (const folder of ['lists/partial', 'cache/archives/partial']) mkdirSync(join(work, folder), { recursive: true })
    options = ['-o', `Dir::State::lists=${join(work, 'lists')}`, '-o', `Dir::Cache=${join(work, 'cache')}`]
    quiet('apt-get', [...options, 'update'])
    packages = missing()
  }
  if (packages.length === 0) return undefined
  const download = quiet('apt-get', [...options, 'download', ...packages], { cwd: work })
  if (download.status !== 0) {
    process.stderr.write(download.stderr)
    return undefined
  }
  mkdirSync(dirname(cacheFolder), { recursive: true })
  // Beside its place and moved there when it is whole: another run may be looking.
  const fresh = mkdtempSync(`${cacheFolder}-`)
  cleanups.push(() => rmSync(fresh, { recursive: true, force: true }))
  for (const file of readdirSync(work).filter(name => name.endsWith('.deb'))) {
    if (quiet('dpkg', ['-x', join(work, file), fresh]).status !== 0) return undefined
  }
  try {
    renameSync(fresh, cacheFolder)
  } catch {
    // Another run was first.
  }
  return unpacked()
}

const [command, ...args] = process.argv.slice(2)
if (command === undefined) fail('usage: node with-redis.mjs COMMAND [ARGUMENT ...]')

let child
process.on('exit', () => {
  for (const cleanup of cleanups) cleanup()
})
for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP']) {
  process.on(signal, () => (child === undefined ? process.exit(128 + osConstants.signals[signal]) : child.kill(signal)))
}

const found = (await given()) ?? (await installed()) ?? (await container()) ?? (await debian())
if (found === undefined) {
  fail(
    'no Redis to test with. Any of these will do: set REDIS_URL=redis://host:port; put redis-server or valkey-server ' +
      'on the PATH (Debian, Ubuntu: apt-get install redis-server; macOS: brew install redis); start Docker',
  )
}

const env = { ...process.env, ...found.env }
for (const [name, value] of Object.entries(found.env)) if (value === undefined) delete env[name]
env.PATH = `${join(root, 'node_modules', '.bin')}${delimiter}${env.PATH ?? ''}`
child = spawn(command, args, { stdio: 'inherit', env })
child.on('error', error => fail(`${command}: ${error.message}`))
child.on('exit', (code, signal) => process.exit(code ?? 128 + osConstants.signals[signal]))
