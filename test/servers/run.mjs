/**
 * The tests of the plugin's stores on other servers, and those of the plugin on other versions of Node.js.
 *
 *   npm run test:servers                  all of them
 *   npm run test:servers -- redis-8 node-24   some
 *   SERVERS=/opt/valkey/valkey-server,redis-server npm run test:servers   these programs, and no others
 *
 * Servers come from Debian's packages and versions of Node.js from the npm registry; both are kept in a cache folder of the
 * user. What cannot be had is left out, and the last lines say why. Ends with 1 where a test failed or nothing was run.
 */
import { spawn, spawnSync } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { delimiter, dirname, join, resolve } from 'node:path'
import { createInterface } from 'node:readline'
import { fileURLToPath } from 'node:url'
import { cacheFolder, fromDebian, withoutDebian } from './debian.mjs'

const root = resolve(dirname(fileURLToPath(import.meta.url)), '..', '..')

const DEBIAN = [
  { name: 'redis-7', suite: 'bookworm', program: 'redis-server' },
  { name: 'redis-8', suite: 'trixie', program: 'redis-server' },
  { name: 'valkey-8', suite: 'trixie', program: 'valkey-server' },
  { name: 'valkey-9', suite: 'sid', program: 'valkey-server' },
]
const NODES = ['22', '24', '26']

/** What talks to a server, and nothing else of the plugin. */
const ON_SERVERS = [
  'stores',
  'concurrency',
  'foreign-values',
  'known-denial',
  'policy-keys',
  'quota',
  'redis-memory',
  'redis-rights',
  'refunds',
  'standalone',
  'store-errors',
  'windows',
]
  .map(name => (name === 'stores' ? `test/plugin/${name}` : `test/plugin/${name}.test.ts`))
  .filter(path => existsSync(join(root, path)))

const wanted = process.argv.slice(2)
const names = [...DEBIAN.map(({ name }) => name), ...NODES.map(version => `node-${version}`)]
const unknown = wanted.filter(name => !names.includes(name))
if (unknown.length > 0) {
  process.stderr.write(`there is no ${unknown.join(', ')}; there are ${names.join(', ')}\n`)
  process.exit(2)
}
const isWanted = name => wanted.length === 0 || wanted.includes(name)

/** What was run, and what was left out. */
const rows = []
const temporary = mkdtempSync(join(tmpdir(), 'servers-'))

/** Runs test files with programs that are found first in `bins`. */
async function test(name, version, bins, files, label) {
  process.stdout.write(`\n== ${name}: ${version}\n`)
  const env = { ...process.env, PATH: [...bins, process.env.PATH].join(delimiter) }
  delete env.REDIS_URL
  delete env.REDIS_SERVER_BIN
  const began = performance.now()
  const args = ['test/support/with-redis.mjs', 'tap', '--disable-coverage', '--reporter=tap', '--timeout=600', ...files]
  const child = spawn('node', args, { cwd: root, env, stdio: ['ignore', 'pipe', 'inherit'] })
  // Which file has passed, and which of its tests have not.
  for await (const line of createInterface({ input: child.stdout }))
    if (/^(?:ok|not ok| {4}not ok) /.test(line)) process.stdout.write(`${line.replace(/ # time=.*/, '')}\n`)
  const code = child.exitCode ?? (await once(child, 'exit'))[0]
  rows.push({ name, version, tests: label, result: code === 0 ? 'passed' : 'FAILED', seconds: seconds(began) })
}

const seconds = began => Math.round((performance.now() - began) / 1000)
const leftOut = (name, why) => rows.push({ name, result: 'left out', why })

/** The version that a program tells, or an error. */
function versionOf(program) {
  const { error, stdout = '', stderr } = spawnSync(program, ['--version'], { encoding: 'utf8' })
  const found = /(Redis|Valkey) server v=(\S+)/.exec(stdout) ?? /^v(\d\S+)/.exec(stdout)
  if (found === null) throw new Error(error?.message ?? (stderr || `${program} tells no version`))
  return found.length > 2 ? `${found[1]} ${found[2]}` : `Node.js ${found[1]}`
}

async function onServer(name, folderOf) {
  let bin
  let version
  try {
    bin = folderOf()
    version = versionOf(join(bin, 'redis-server'))
  } catch (error) {
    return leftOut(name, error.message)
  }
  await test(name, version, [bin], ON_SERVERS, 'the stores')
}

/** A version of Node.js from the registry. Returns the folder of its program. */
function nodeFrom(version) {
  const name = `node-${process.platform === 'win32' ? 'win' : process.platform}-${process.arch}`
  const folder = join(cacheFolder, `node-${version}`)
  const bin = join(folder, 'node_modules', name, 'bin')
  if (!existsSync(join(bin, 'node'))) {
    mkdirSync(folder, { recursive: true })
    const quiet = ['--no-audit', '--no-fund', '--loglevel=error']
    const args = ['install', '--prefix', folder, ...quiet, `${name}@${version}`]
    const { status, stderr } = spawnSync('npm', args, { encoding: 'utf8' })
    if (status !== 0) throw new Error(`npm: ${stderr.trim().split('\n')[0]}`)
  }
  return bin
}

async function onNode(version) {
  const name = `node-${version}`
  let bin
  let found
  try {
    bin = nodeFrom(version)
    found = versionOf(join(bin, 'node'))
  } catch (error) {
    return leftOut(name, error.message)
  }
  const files = readdirSync(join(root, 'test/plugin')).filter(file => file.endsWith('.test.ts'))
  const all = [...files.map(file => `test/plugin/${file}`), 'test/plugin/stores', 'test/doors/fastify-6.ts']
  await test(name, found, [bin], all, 'the plugin, and Fastify 6')
}

const given = process.env.SERVERS?.split(',').filter(path => path.trim() !== '')
if (given === undefined) {
  const why = withoutDebian()
  for (const { name, suite, program } of DEBIAN.filter(({ name }) => isWanted(name))) {
    if (why === undefined) await onServer(name, () => fromDebian(suite, program))
    else leftOut(name, `${why}; name programs in SERVERS`)
  }
} else {
  for (const [index, path] of given.entries()) {
    // Tests start `redis-server`, whatever the program is called.
    await onServer(path, () => {
      const folder = join(temporary, `${index}`)
      mkdirSync(folder)
      const which = path.includes('/') ? resolve(path) : spawnSync('which', [path], { encoding: 'utf8' }).stdout.trim()
      if (!existsSync(which)) throw new Error('there is no such program')
      symlinkSync(which, join(folder, 'redis-server'))
      return folder
    })
  }
}
if (given === undefined || wanted.length > 0)
  for (const version of NODES) if (isWanted(`node-${version}`)) await onNode(version)

rmSync(temporary, { recursive: true, force: true })
process.stdout.write('\n')
for (const { name, version, tests, result, seconds, why } of rows) {
  process.stdout.write(`${result}  ${name}: ${why ?? `${version}, tests of ${tests} (${seconds} s)`}\n`)
}
const isGood = rows.every(({ result }) => result !== 'FAILED') && rows.some(({ result }) => result === 'passed')
process.exitCode = isGood ? 0 : 1
