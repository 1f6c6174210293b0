import { execFile } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, resolve } from 'node:path'
import { promisify } from 'node:util'
import t from 'tap'
import { childEnv } from '../support/child-env.js'
import { startRedis } from '../support/redis-fleet.js'

/**
 * The published test suite of `@fastify/rate-limit`, run with our package in the place of theirs.
 *
 * One test is not for us: it wants HEAD counted apart from the GET of the same route, where we count them together,
 * since otherwise a client gets twice its quota by asking with both.
 */
const NOT_FOR_US = new Set(['per route rate limit'])

/** Their tests ask several times within half a second of true time, for which a busy machine may be too slow. */
const TRIES = 4

t.test('the suite of @fastify/rate-limit passes with this package in its place', async t => {
  const redis = await startRedis(t)
  const { port } = redis
  const admin = redis.client()
  const home = dirname(createRequire(import.meta.url).resolve('@fastify/rate-limit/package.json'))
  const folder = t.testdir({
    // A busy machine is given time to answer, which is not what these tests are about.
    'index.js': `const ours = require('${resolve('plugin/dist/index.cjs')}')
const patient = (app, options) => ours.default(app, options.redis ? { storeTimeout: 10_000, ...options } : options)
for (const name of Object.getOwnPropertySymbols(ours.default)) patient[name] = ours.default[name]
module.exports = Object.assign(patient, ours, { default: patient, rateLimit: patient })
`,
    'package.json': '{ "type": "commonjs" }',
  })
  cpSync(join(home, 'test'), join(folder, 'test'), { recursive: true })
  const files = readdirSync(join(folder, 'test'), { recursive: true, encoding: 'utf8' }).filter(file =>
    file.endsWith('.js'),
  )
  t.ok(files.length >= 12)
  const failed: string[] = []
  let passed = 0
  for (const file of files) {
    const path = join(folder, 'test', file)
    writeFileSync(
      path,
      readFileSync(path, 'utf8').replaceAll('{ host: REDIS_HOST }', `{ host: REDIS_HOST, port: ${port} }`),
    )
    let outcome = await run(path)
    for (let again = 0; again < TRIES - 1 && outcome.failed.length > 0; again++) {
      await admin.flushall()
      outcome = await run(path)
    }
    passed += outcome.passed
    failed.push(...outcome.failed.map(name => `${file}: ${name}`))
  }
  t.strictSame(failed, [])
  t.ok(passed > 105, `${passed} of their tests pass`)
})

/** What became of the tests of a file. */
async function run(path: string): Promise<{ readonly passed: number; readonly failed: readonly string[] }> {
  // Through `env`, because the test runner hooks itself into every Node that it sees started.
  const { stdout } = await promisify(execFile)(
    'env',
    // A test of theirs that fails leaves its connections open.
    ['-u', 'NODE_OPTIONS', process.execPath, '--test', '--test-force-exit', '--test-reporter=tap', path],
    { env: childEnv() },
  ).catch((error: { stdout: string }) => error)
  const results = [...stdout.matchAll(/^ *(not )?ok \d+ - (.*)$/gm)].map(([, not, name]) => ({ not, name: `${name}` }))
  const failed = results.filter(({ not, name }) => not !== undefined && !NOT_FOR_US.has(name)).map(({ name }) => name)
  return {
    passed: results.filter(({ not }) => not === undefined).length,
    failed: /^# pass [1-9]/m.test(stdout) ? failed : [...failed, 'did not run'],
  }
}
