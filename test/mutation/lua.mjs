/**
 * Mutation testing of the Lua files: makes every mutant of them, and runs the tests of the stores against each.
 *
 *   npm run mutate -- lua [--only log.lua] [--operator comparison] [--workers 1] [--part 1/4] [--report FILE] [--list]
 *
 * A mutant is killed when a test fails or does not end in time. Survivors must be in `lua-harmless.json`, with the reason
 * why they do no harm. Ends with 1 when another one survives, when one that is listed there is killed or is no mutant any
 * more, or when less than 95 % are killed.
 */
import { cpSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { parseArgs } from 'node:util'
import { mutantsOf } from './lua-mutants.mjs'
import { attempt, bundle, luaFolder, root, Server, WORKERS } from './quick-tests.mjs'

const LEAST_KILLED = 0.95

/** The tests of all scripts, in this process. */
const IN_PROCESS = 'test/mutation/in-process.ts'
/** Files that histories of checks and refunds run. */
const CHECKS = ['log.lua', 'check.lua', 'refund.lua']
/** Files that Redis never sees have test files. */
const TESTS = { 'mock.lua': ['test/plugin/stores/mock.test.ts'] }

const { values: options } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    workers: { type: 'string', default: WORKERS },
    operator: { type: 'string', multiple: true },
    part: { type: 'string', default: '1/1' },
    report: { type: 'string' },
    list: { type: 'boolean', default: false },
  },
})

const textOf = file => readFileSync(join(luaFolder, file), 'utf8')
const all = readdirSync(luaFolder).filter(name => name.endsWith('.lua'))
const files = all.filter(file => options.only?.includes(file) ?? true)
if (files.length === 0) fail(`there is no ${options.only?.join(', ')}; there are ${all.join(', ')}`)
const [part, parts] = options.part.split('/').map(Number)
const mutants = files
  .flatMap(file => mutantsOf(file, textOf(file)))
  .filter(({ operator }) => options.operator?.includes(operator) ?? true)
  .filter((_, index) => index % parts === part - 1)
if (options.list) {
  for (const { id, operator, line } of mutants) process.stdout.write(`line ${line}, ${operator}: ${id}\n`)
  process.exit()
}

function fail(message) {
  process.stderr.write(`${message}\n`)
  process.exit(2)
}

const compiled = await bundle([IN_PROCESS, ...Object.values(TESTS).flat()])
const { firstFailure } = await import(pathToFileURL(compiled.get(IN_PROCESS)).href)

/** Runs all tests of a file, with the Lua files in `folder`. `change`: what makes a mutant of a script's text. */
function test(file, server, folder, change, limitMs) {
  if (TESTS[file] === undefined) return firstFailure(server.url, change, CHECKS.includes(file), limitMs)
  const env = { REDIS_URL: server.url, MUTATION_LUA: folder, TAP_BAIL: '1', TAP_TIMEOUT: '60' }
  return attempt(
    TESTS[file].map(name => compiled.get(name)),
    env,
    limitMs,
  )
}

/**
 * Without a mutant everything passes. How long the tests may take with one (ms): ten times as long, and at least so long
 * that a busy machine makes no difference. A script without an end is noticed earlier, by the Redis that it holds.
 */
async function limitsOf() {
  const server = await new Server().start()
  const limits = {}
  for (const file of files) {
    const began = performance.now()
    const failed = await test(file, server, luaFolder, source => source, 600_000)
    if (failed !== undefined) fail(`without a mutant a test of ${file} fails: ${failed}`)
    const ms = performance.now() - began
    limits[file] = Math.max(TESTS[file] === undefined ? 120_000 : 20_000, 10 * ms)
    process.stdout.write(`${file}: its tests take ${Math.round(ms)} ms\n`)
  }
  server.close()
  return limits
}

const results = []
async function work(queue, limits) {
  const folder = mkdtempSync(join(tmpdir(), 'mutation-lua-'))
  for (const file of readdirSync(luaFolder)) cpSync(join(luaFolder, file), join(folder, file))
  let server = await new Server().start()
  try {
    for (let mutant = queue.shift(); mutant !== undefined; mutant = queue.shift()) {
      const { file, text, id } = mutant
      const original = textOf(file)
      writeFileSync(join(folder, file), text)
      const began = performance.now()
      const killedBy = await test(file, server, folder, source => source.replace(original, () => text), limits[file])
      writeFileSync(join(folder, file), original)
      results.push({ ...mutant, killedBy, ms: Math.round(performance.now() - began) })
      const of = `${mutants.length - queue.length}/${mutants.length}`
      if (killedBy === undefined) process.stdout.write(`survived ${of}  ${id}\n`)
      else process.stdout.write(`killed   ${of}  ${id}  [${killedBy.replace(/\s+/g, ' ').slice(0, 70)}]\n`)
      // A script without an end holds the server for ever.
      if (/^time limit|Connection is closed/.test(killedBy ?? '')) {
        server.close()
        server = await new Server().start()
      }
    }
  } finally {
    server.close()
    rmSync(folder, { recursive: true, force: true })
  }
}

const limits = await limitsOf()
const queue = [...mutants]
await Promise.all(Array.from({ length: Number(options.workers) }, () => work(queue, limits)))

/** By the id of a mutant: why it does no harm. */
const harmless = new Map(
  JSON.parse(readFileSync(join(root, 'test/mutation/lua-harmless.json'), 'utf8')).flatMap(({ reason, mutants }) =>
    mutants.map(id => [id, reason]),
  ),
)
const survivors = results.filter(({ killedBy }) => killedBy === undefined)
const unexplained = survivors.filter(({ id }) => !harmless.has(id))
const survived = new Set(survivors.map(({ id }) => id))
const tried = new Set(results.map(({ id }) => id))
const outdated = [...harmless.keys()].filter(id =>
  parts === 1 && files.includes(id.split(':')[0]) ? !survived.has(id) : tried.has(id) && !survived.has(id),
)
const share = 1 - survivors.length / results.length

process.stdout.write(
  `\n${results.length} mutants: ${results.length - survivors.length} killed (${(100 * share).toFixed(1)} %), ` +
    `${survivors.length - unexplained.length} survived and are listed as harmless\n`,
)
for (const { id } of unexplained) process.stdout.write(`survived without a reason: ${id}\n`)
for (const id of outdated) process.stdout.write(`listed as harmless, but did not survive: ${id}\n`)
if (options.report !== undefined) {
  const list = results.map(({ id, file, line, operator, killedBy, ms }) => ({ id, file, line, operator, killedBy, ms }))
  writeFileSync(options.report, JSON.stringify(list, null, 1))
}
process.exitCode = unexplained.length > 0 || outdated.length > 0 || share < LEAST_KILLED ? 1 : 0
