/**
 * Runs test files fast, and ends at the first failure: hundreds of mutants are tried with each of them.
 *
 * `bundle` compiles the files once, together with the sources of the plugin. `attempt` runs some of them in one process.
 * That process reads the Lua files when it starts, from the folder in MUTATION_LUA.
 */
import { spawn } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs'
import { createServer } from 'node:net'
import { availableParallelism, tmpdir } from 'node:os'
import { basename, dirname, join, relative } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

export const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..')
export const luaFolder = join(root, 'plugin', 'src', 'stores', 'redis')

/** Mutants that are tried at a time, where nobody says how many. */
export const WORKERS = `${Math.min(2, availableParallelism())}`

export const bundles = join(root, 'test', 'mutation', '.bundles')

/** Replaces the module that reads the Lua files next to itself. */
const luaFromFolder = {
  name: 'lua-from-folder',
  setup(bundler) {
    bundler.onLoad({ filter: /[/\\]redis[/\\]lua\.ts$/ }, ({ path }) => {
      const names = readdirSync(dirname(path)).flatMap(file => (file.endsWith('.lua') ? [basename(file, '.lua')] : []))
      const contents = [
        `import { readFileSync } from 'node:fs'`,
        `const folder = process.env.MUTATION_LUA ?? ${JSON.stringify(dirname(path))}`,
        ...names.map(name => `export const ${name} = readFileSync(folder + '/${name}.lua', 'utf8')`),
      ]
      return { contents: contents.join('\n'), loader: 'js' }
    })
  },
}

/**
 * Compiles test files, named by their paths from the root. Returns the path of each compiled file by that name.
 *
 * @param options of the bundler that are not the usual ones
 */
export async function bundle(files, { outdir = bundles, alias = {}, plugins = [], ...options } = {}) {
  mkdirSync(outdir, { recursive: true })
  await build({
    absWorkingDir: root,
    entryPoints: files,
    outdir,
    outbase: 'test',
    outExtension: { '.js': '.mjs' },
    bundle: true,
    splitting: true,
    packages: 'external',
    alias: {
      'ml-api-rate-limiter': join(root, 'plugin/src/index.ts'),
      'ml-api-rate-limiter/limiter': join(root, 'plugin/src/standalone.ts'),
      ...alias,
    },
    platform: 'node',
    format: 'esm',
    target: 'node20.19',
    plugins: [...plugins, luaFromFolder],
    ...options,
  })
  return new Map(files.map(file => [file, join(outdir, `${relative('test', file).replace(/\.ts$/, '')}.mjs`)]))
}

/** What is ended with this process. */
const running = new Set()
process.on('exit', () => {
  for (const child of running) kill(child)
})
for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(1))

/** Ends a process, and those of its group where it leads one. */
function kill({ pid }) {
  for (const whom of [-pid, pid]) {
    try {
      process.kill(whom, 'SIGKILL')
    } catch {} // it has ended already
  }
}

const RUNNER = join(root, 'test', 'mutation', 'run-in-order.mjs')

/**
 * Runs compiled test files, one after the other, until one test fails.
 *
 * @param files paths of compiled files
 * @param env   environment variables of the process, added to those of this one
 * @param limitMs after so many milliseconds the process is ended
 * @returns the title of the first test that failed, 'time limit', or undefined when all of them passed
 */
export async function attempt(files, env, limitMs) {
  // It leads a process group, so that servers which its tests have started end with it.
  const child = spawn(process.execPath, [RUNNER, ...files], {
    cwd: root,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
    detached: true,
  })
  running.add(child)
  return new Promise(resolve => {
    let output = ''
    const end = answer => {
      clearTimeout(timer)
      running.delete(child)
      kill(child)
      resolve(answer)
    }
    const timer = setTimeout(end, limitMs, 'time limit')
    child.stderr.resume()
    child.stdout.on('data', data => {
      output = (output + data).slice(-20_000)
      const failed = /^ *not ok \d+ - (.*?)(?: # time=.*)?\n/m.exec(output)
      if (failed !== null) end(failed[1])
    })
    child.on('exit', code => end(code === 0 ? undefined : `exit ${code}`))
  })
}

/** A Redis for a worker. */
export class Server {
  url = ''
  #child
  #folder = mkdtempSync(join(tmpdir(), 'mutation-'))

  async start() {
    const port = await freePort()
    const args = ['--port', `${port}`, '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no', '--dir', this.#folder]
    // It says that it is busy with a script which takes longer than any does.
    args.push('--lua-time-limit', '1000')
    this.#child = spawn(process.env.REDIS_SERVER_BIN ?? 'redis-server', args, { stdio: ['ignore', 'pipe', 'inherit'] })
    running.add(this.#child)
    this.#child.on('error', error => {
      throw error
    })
    let log = ''
    this.#child.stdout.on('data', data => (log = (log + data).slice(-5000)))
    for (const until = Date.now() + 20_000; !/ready to accept connections/i.test(log); await delay(5))
      if (Date.now() > until || this.#child.exitCode !== null) throw new Error(`the Redis does not start: ${log}`)
    this.url = `redis://127.0.0.1:${port}`
    return this
  }

  close() {
    running.delete(this.#child)
    this.#child.kill('SIGKILL')
    rmSync(this.#folder, { recursive: true, force: true, maxRetries: 5 })
  }
}

async function freePort() {
  const server = createServer()
  await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))
  const { port } = server.address()
  await new Promise(resolve => server.close(resolve))
  return port
}
