/** Test runners with module systems and timers of their own run a small suite of a user. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { installTools, offline, project, run, TOOLS, write } from './support.js'

const SUITE = readFileSync('test/doors/programs/limits.test.mjs', 'utf8')
const REDIS_URL = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379'

/** `inject` of Fastify works in process ticks, and `quit` of Jest's environment in them too. */
const JEST = SUITE.replaceAll('FAKE', "{ doNotFake: ['nextTick', 'setImmediate', 'queueMicrotask'] }")
  .replaceAll('ALMOST_ALL', "{ doNotFake: ['nextTick', 'queueMicrotask'] }")
  .replaceAll('runner.', 'jest.')
const VITEST = SUITE.replaceAll('FAKE', "{ toFake: ['setTimeout', 'setInterval', 'Date', 'performance'] }")
  .replaceAll('ALMOST_ALL', '')
  .replaceAll('runner.', 'vi.')
const CJS = JEST.replace("import Fastify from 'fastify'", "const Fastify = require('fastify')")
  .replace("import { Redis } from 'ioredis'", "const { Redis } = require('ioredis')")
  .replace(
    "import rateLimit, { QuotaExceeded } from 'ml-api-rate-limiter'",
    "const rateLimit = require('ml-api-rate-limiter')\nconst { QuotaExceeded } = rateLimit",
  )

const jest = join(TOOLS, 'node_modules/jest/bin/jest.js')
const vitest = join(TOOLS, 'node_modules/vitest/vitest.mjs')
const RUNNERS = [
  ['Jest, CommonJS', [jest, '--rootDir', 'cjs', '--config', 'cjs/jest.config.json']],
  ['Jest, ES modules', ['--experimental-vm-modules', jest, '--rootDir', 'esm', '--config', 'esm/jest.config.json']],
  ['Vitest', [vitest, 'run', '--root', 'vitest', '--globals']],
] as const

const skip = await offline()
t.test('a suite with fake timers passes in Jest and Vitest', { skip: skip ?? false }, async t => {
  await installTools()
  // Later ones bring an ESM package, which Jest loads from Node.js 24.9 on.
  const folder = await project(t, ['fastify@5', 'ioredis@6'], { overrides: { 'light-my-request': '~6.6.0' } })
  write(folder, {
    'cjs/limits.test.js': CJS,
    'cjs/jest.config.json': JSON.stringify({ testMatch: ['**/*.test.js'] }),
    'esm/limits.test.mjs': `const { jest } = import.meta\n${JEST}`,
    'esm/jest.config.json': JSON.stringify({
      testMatch: ['**/*.test.mjs'],
      transform: {},
      moduleFileExtensions: ['mjs', 'cjs', 'js', 'json'],
    }),
    'vitest/limits.test.mjs': VITEST,
  })
  for (const [name, args] of RUNNERS) {
    const { code, output } = await run(process.execPath, args, folder, { REDIS_URL, CI: 'true' })
    t.equal(code, 0, `${name}\n${output}`)
    t.match(output, /4 passed/, name)
  }
})
