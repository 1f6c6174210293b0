/**
 * Mutation testing of the plugin's core and stores: StrykerJS makes the mutants of a source, all in one text that asks at
 * each of them whether it is meant. The tests are compiled with that text once, and run in a worker for each mutant.
 *
 *   npm run mutate -- typescript [--only window.ts] [--lines 10-80] [--workers 1]
 *
 * Survivors must be in `typescript-harmless.json`, with the reason why they do no harm. Ends with 1 when another one
 * survives, when one that is listed there is killed or no longer a mutant, or when less than 85 % are killed.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { Worker } from 'node:worker_threads'
import { bundle, bundles, root, WORKERS } from './quick-tests.mjs'

const LEAST_KILLED = 0.85
/** A test without an end is given up after so many milliseconds, or so many times what it takes without a mutant. */
const LEAST_LIMIT_MS = 10_000
const LIMIT_FACTOR = 20

const tools = join(root, 'node_modules/.cache/mutation/tools')

const plugin = (...names) => names.map(name => `test/plugin/${name}.test.ts`)
const stores = (...names) => plugin(...names.map(name => `stores/${name}`))

/** What is mutated, and the test files that kill its mutants. */
const FILES = {
  'plugin/src/decision.ts': plugin('decision'),
  'plugin/src/limiter.ts': plugin('limiter'),
  'plugin/src/stores/custom.ts': stores('custom'),
  'plugin/src/stores/denials.ts': stores('denials'),
  'plugin/src/stores/memory/blocks.ts': stores('rows'),
  'plugin/src/stores/memory/memory-store.ts': stores('memory-store'),
  'plugin/src/stores/memory/table.ts': stores('rows'),
  'plugin/src/stores/processes/messages.ts': stores('processes'),
  'plugin/src/stores/processes/shared-counts.ts': stores('processes'),
  'plugin/src/stores/processes/shared-store.ts': stores('processes'),
  'plugin/src/stores/redis/across-slots.ts': stores('slots'),
  'plugin/src/stores/redis/batcher.ts': stores('batcher'),
  'plugin/src/stores/redis/circuit.ts': stores('circuit'),
  'plugin/src/stores/redis/clock.ts': stores('redis-clock'),
  'plugin/src/stores/redis/codec.ts': stores('codec'),
  'plugin/src/stores/redis/nodes.ts': stores('nodes'),
  'plugin/src/stores/redis/outage.ts': stores('outage'),
  'plugin/src/stores/redis/owed.ts': stores('owed'),
  'plugin/src/stores/redis/permits.ts': stores('permits'),
  'plugin/src/stores/redis/prefetch.ts': stores('grants'),
  'plugin/src/stores/redis/presence.ts': stores('presence'),
  'plugin/src/stores/redis/redis-store.ts': stores('redis-store'),
  'plugin/src/policy.ts': stores('window'),
  'plugin/src/window.ts': stores('window'),
}

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    lines: { type: 'string' },
    workers: { type: 'string', default: WORKERS },
  },
})

function fail(message) {
  process.stderr.write(`${message}\n`)
  process.exit(2)
}

const isOne = name => options.only?.some(given => name === given || name.endsWith(`/${given}`)) ?? true
const files = Object.keys(FILES).filter(isOne)
if (files.length === 0) fail(`there is no ${options.only?.join(', ')}; there are ${Object.keys(FILES).join(', ')}`)

/** The ids of mutants that do no harm. */
const harmless = new Set(
  JSON.parse(readFileSync(join(root, 'test/mutation/typescript-harmless.json'), 'utf8')).flatMap(
    ({ mutants }) => mutants,
  ),
)

/** Installs StrykerJS, unless it is there already as the lock file has it: nothing else needs it. */
function install() {
  const wanted = name => join(root, 'test/mutation/tools', name)
  const lock = join(tools, 'package-lock.json')
  const done = join(tools, 'node_modules/.package-lock.json')
  const isSame = () => readFileSync(lock, 'utf8') === readFileSync(wanted('package-lock.json'), 'utf8')
  if (existsSync(done) && isSame()) return
  rmSync(tools, { recursive: true, force: true })
  mkdirSync(tools, { recursive: true })
  for (const name of ['package.json', 'package-lock.json']) copyFileSync(wanted(name), join(tools, name))
  const quiet = ['--no-audit', '--no-fund', '--loglevel=error']
  const { status } = spawnSync('npm', ['ci', '--ignore-scripts', ...quiet], { cwd: tools, stdio: 'inherit' })
  if (status !== 0) fail('StrykerJS cannot be installed; it comes from the npm registry')
}

/** The mutants of a source, and the text in which each of them can be switched on. */
async function mutantsOf(file, source) {
  const load = name => import(pathToFileURL(join(tools, 'node_modules', name)).href)
  const { createInstrumenter } = await load('@stryker-mutator/instrumenter/dist/src/index.js')
  const { createInjector } = await load('typed-inject/dist/src/index.js')
  const logger = { isDebugEnabled: () => false, debug() {}, info() {}, warn() {} }
  const instrumenter = createInjector().provideValue('logger', logger).injectFunction(createInstrumenter)
  const options = { plugins: null, excludedMutations: [], ignorers: [] }
  const { files, mutants } = await instrumenter.instrument([{ name: file, content: source, mutate: true }], options)
  return { text: files[0].content, mutants }
}

/** Tries the mutants of one file. Returns them with what killed each. */
async function mutate(file) {
  const path = join(root, file)
  const source = readFileSync(path, 'utf8')
  const { text, mutants } = await mutantsOf(file, source)
  const instead = {
    name: 'mutated-source',
    setup(bundler) {
      bundler.onLoad({ filter: /\.ts$/ }, args => (args.path === path ? { contents: text, loader: 'ts' } : undefined))
    },
  }
  const compiled = await bundle(FILES[file], {
    outdir: join(bundles, file.replace(/\W+/g, '-')),
    alias: { tap: join(root, 'test/mutation/quick-tap.mjs') },
    plugins: [instead],
    splitting: false,
  })
  const tests = FILES[file].map(test => pathToFileURL(compiled.get(test)).href)
  const began = performance.now()
  const failure = await attempt(tests, undefined, 60_000)
  if (failure !== undefined) fail(`without a mutant a test of ${file} fails: ${failure}`)
  const tookMs = performance.now() - began
  const limitMs = Math.max(LEAST_LIMIT_MS, LIMIT_FACTOR * tookMs)

  const [from, to] = (options.lines ?? '1-1000000').split('-').map(Number)
  const queue = mutants.filter(({ location }) => location.start.line + 1 >= from && location.start.line < to)
  const lines = source.split('\n')
  const tried = []
  const work = async () => {
    for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
      const killedBy = await attempt(tests, mutant.id, limitMs)
      tried.push({ file, line: mutant.location.start.line + 1, id: idOf(file, lines, mutant), killedBy })
    }
  }
  await Promise.all(Array.from({ length: Number(options.workers) }, work))
  const killed = tried.filter(({ killedBy }) => killedBy !== undefined).length
  process.stdout.write(`${file}: ${killed} of ${tried.length} mutants killed\n`)
  for (const { id, line, killedBy } of tried)
    if (killedBy === undefined && !harmless.has(id))
      process.stdout.write(`line ${line} survived without a reason: ${id}\n`)
  return tried
}

/** Runs test files with a mutant, or without. Returns why the first test failed; undefined where all passed. */
function attempt(files, mutant, limitMs) {
  const worker = new Worker(new URL('mutant.mjs', import.meta.url), {
    workerData: { files, mutant },
    stdout: true,
    stderr: true,
  })
  return new Promise(resolve => {
    const timer = setTimeout(() => resolve('time limit'), limitMs)
    worker.on('message', ({ killedBy }) => {
      clearTimeout(timer)
      resolve(killedBy)
    })
    worker.on('error', ({ message }) => resolve(message))
    worker.on('exit', code => resolve(`exit ${code}`))
  }).finally(() => worker.terminate())
}

/** Says which mutant it is, as long as its lines stay what they are. */
function idOf(file, lines, { location: { start, end }, replacement }) {
  const text = lines.slice(start.line, end.line + 1)
  text[text.length - 1] = text.at(-1).slice(0, end.column)
  const before = lines[start.line].slice(0, start.column).trimStart()
  text[0] = text[0].slice(start.column)
  const short = value => value.replace(/\s+/g, ' ').slice(0, 200)
  return `${file}: ${short(before)}⟦${short(text.join(' '))} → ${short(replacement)}⟧`
}

install()
const results = []
for (const file of files) results.push(...(await mutate(file)))
const survivors = results.filter(({ killedBy }) => killedBy === undefined)
const unexplained = survivors.filter(({ id }) => !harmless.has(id))
const survived = new Set(survivors.map(({ id }) => id))
const outdated = [...harmless].filter(
  id => options.lines === undefined && files.includes(id.split(':')[0]) && !survived.has(id),
)
const share = 1 - survivors.length / results.length

process.stdout.write(
  `\n${results.length} mutants: ${results.length - survivors.length} killed (${(100 * share).toFixed(1)} %), ` +
    `${survivors.length - unexplained.length} survived and are listed as harmless\n`,
)
for (const id of outdated) process.stdout.write(`listed as harmless, but did not survive: ${id}\n`)
process.exitCode = unexplained.length > 0 || outdated.length > 0 || share < LEAST_KILLED ? 1 : 0
