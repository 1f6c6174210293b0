/**
 * Mutation testing of the plugin's core and stores with StrykerJS.
 *
 *   npm run mutate -- typescript [--only window.ts] [--lines 10-80]
 *
 * Each file has its own list of tests, the quickest first: each test file that runs for a mutant costs a process.
 * Survivors must be in `typescript-harmless.json`, with the reason why they do no harm. Ends with 1 when another one
 * survives, when one that is listed there is killed or no longer a mutant, or when less than 85 % are killed.
 */
import { spawnSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { parseArgs } from 'node:util'
import { root } from './quick-tests.mjs'

const LEAST_KILLED = 0.85
const cache = join(root, 'node_modules/.cache/mutation')
const tools = join(cache, 'tools')

const plugin = (...names) => names.map(name => `test/plugin/${name}.test.ts`)
const stores = (...names) => plugin(...names.map(name => `stores/${name}`))

/** What is mutated, and the tests that kill its mutants. */
const FILES = {
  'plugin/src/decision.ts': plugin('decision'),
  'plugin/src/stores/denials.ts': stores('denials'),
  'plugin/src/stores/memory/blocks.ts': stores('rows'),
  'plugin/src/stores/memory/memory-store.ts': stores('memory-store'),
  'plugin/src/stores/memory/table.ts': stores('rows'),
  'plugin/src/policy.ts': stores('window'),
  'plugin/src/window.ts': stores('window'),
}

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    lines: { type: 'string' },
  },
})

function fail(message) {
  process.stderr.write(`${message}\n`)
  process.exit(2)
}

/** A child with what this one has, and its own output. */
const run = (command, args, options = {}) => spawnSync(command, args, { cwd: root, stdio: 'inherit', ...options })

const isOne = name => options.only?.some(given => name === given || name.endsWith(`/${given}`)) ?? true
const files = Object.keys(FILES).filter(isOne)
if (files.length === 0) fail(`there is no ${options.only?.join(', ')}; there are ${Object.keys(FILES).join(', ')}`)

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
  const { status } = run('npm', ['ci', '--ignore-scripts', ...quiet], { cwd: tools })
  if (status !== 0) fail('StrykerJS cannot be installed; it comes from the npm registry')
}

/** All mutants of one file, with what became of each. */
function mutate(file) {
  const name = file.replace(/\W+/g, '-')
  const folder = join(cache, name)
  mkdirSync(folder, { recursive: true })
  const report = join(folder, 'report.json')
  rmSync(report, { force: true })
  const config = {
    mutate: [options.lines === undefined ? file : `${file}:${options.lines}`],
    plugins: [join(tools, 'node_modules/@stryker-mutator/tap-runner/dist/src/index.js')],
    testRunner: 'tap',
    tap: {
      testFiles: FILES[file].map(test => test.replace(/^test\//, 'test/mutation/.bundles/').replace(/\.ts$/, '.mjs')),
      nodeArgs: ['--import=./test/mutation/generated.mjs'],
      // A process that is killed would leave the servers running that its tests have started.
      forceBail: false,
    },
    buildCommand: `node test/mutation/bundle.mjs ${FILES[file].join(' ')}`,
    coverageAnalysis: 'perTest',
    ignoreStatic: true,
    disableTypeChecks: file,
    concurrency: 1,
    timeoutMS: 10_000,
    timeoutFactor: 3,
    reporters: ['json', 'progress-append-only'],
    jsonReporter: { fileName: report },
    tempDirName: '.stryker-tmp',
    cleanTempDir: 'always',
    ignorePatterns: [
      '*',
      '!plugin',
      '!plugin/src/**',
      '!plugin/package.json',
      '!package.json',
      '!test',
      '!test/plugin/**',
      '!test/support/**',
      '!test/clients/**',
      '!test/mutation/*.mjs',
      '!test/mutation/*.ts',
    ],
    allowConsoleColors: false,
  }
  const path = join(folder, 'stryker.config.json')
  writeFileSync(path, JSON.stringify(config, null, 1))
  const env = { ...process.env, TAP_BAIL: '1', TAP_TIMEOUT: '300' }
  const stryker = join(tools, 'node_modules/@stryker-mutator/core/bin/stryker.js')
  const { status } = run('node', [stryker, 'run', path], { env })
  if (status !== 0 || !existsSync(report)) fail(`StrykerJS ended with ${status} for ${file}`)
  const { source, mutants } = JSON.parse(readFileSync(report, 'utf8')).files[file]
  return mutants.map(mutant => ({ ...mutant, file, id: idOf(file, source.split('\n'), mutant) }))
}

/** Says which mutant it is, as long as its lines stay what they are. */
function idOf(file, lines, { location: { start, end }, replacement }) {
  const text = lines.slice(start.line - 1, end.line)
  text[text.length - 1] = text.at(-1).slice(0, end.column - 1)
  const before = lines[start.line - 1].slice(0, start.column - 1).trimStart()
  text[0] = text[0].slice(start.column - 1)
  const short = value => value.replace(/\s+/g, ' ').slice(0, 200)
  return `${file}: ${short(before)}⟦${short(text.join(' '))} → ${short(replacement)}⟧`
}

install()
/** The ids of mutants that do no harm. */
const harmless = new Set(
  JSON.parse(readFileSync(join(root, 'test/mutation/typescript-harmless.json'), 'utf8')).flatMap(
    ({ mutants }) => mutants,
  ),
)
const results = files.flatMap(mutate).filter(({ status }) => !['Ignored', 'CompileError'].includes(status))
const survivors = results.filter(({ status }) => !['Killed', 'Timeout', 'RuntimeError'].includes(status))
const unexplained = survivors.filter(({ id }) => !harmless.has(id))
const survived = new Set(survivors.map(({ id }) => id))
const outdated = [...harmless].filter(
  id => options.lines === undefined && files.includes(id.split(':')[0]) && !survived.has(id),
)
const share = 1 - survivors.length / results.length

process.stdout.write('\n')
for (const file of files) {
  const count = mutants => mutants.filter(mutant => mutant.file === file).length
  const all = count(results)
  process.stdout.write(`${file}: ${all - count(survivors)} of ${all} mutants killed\n`)
}
process.stdout.write(
  `${results.length} mutants: ${results.length - survivors.length} killed (${(100 * share).toFixed(1)} %), ` +
    `${survivors.length - unexplained.length} survived and are listed as harmless\n`,
)
for (const { id, location } of unexplained)
  process.stdout.write(`line ${location.start.line} survived without a reason: ${id}\n`)
for (const id of outdated) process.stdout.write(`listed as harmless, but did not survive: ${id}\n`)
process.exitCode = unexplained.length > 0 || outdated.length > 0 || share < LEAST_KILLED ? 1 : 0
