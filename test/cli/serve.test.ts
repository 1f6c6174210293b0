import t from 'tap'
import { runProgram } from '../support/build.js'
import { cli } from '../support/cli.js'

const KEY = 'a'.repeat(64)
const limits = (plan: string) =>
  JSON.stringify({
    anonymous: 'free',
    plans: { free: { policies: [{ name: 'requests', limit: 5, window: '1m' }] } },
    keys: [{ sha256: KEY, plan }],
  })

t.test('--check shows each setting with its source and ends with 0 where the service would start', async t => {
  const folder = t.testdir({ 'limits.json': limits('free'), env: 'PORT=3003\nBODY_LIMIT=2048\nADMIN_TOKEN=geheim\n' })
  const env = { PORT: '3002', LIMITS_FILE: `${folder}/limits.json`, REDIS_URL: process.env.REDIS_URL }
  const args = ['serve', '--check', '--env-file', `${folder}/env`, '--queue-max', '7']
  const { code, stdout } = await cli(args, { env })
  t.equal(code, 0)
  t.match(stdout, /^PORT +3002 +environment$/m, 'the environment goes before the file')
  t.match(stdout, /^BODY_LIMIT +2048 +file$/m)
  t.match(stdout, /^QUEUE_MAX +7 +option$/m)
  t.match(stdout, /^HOST +0\.0\.0\.0 +default$/m)
  t.match(stdout, /^ADMIN_TOKEN +\(not shown\) +file$/m)
  t.match(stdout, /^REDIS_URL +\(not shown\) +environment$/m)
  t.match(stdout, /^ok +limits +plans: free; API keys: 1$/m)
  t.match(stdout, /^ok +model +iris, version 1$/m)
  t.match(stdout, /^ok +Redis +answers$/m)
  t.match(stdout, /^the service would start$/m)
  t.notMatch(stdout, 'geheim')
})

t.test('--check names all that is wrong with the settings and ends with 1', async t => {
  const { code, stdout, stderr } = await cli(['serve', '--check', '--port', '70000'], { env: { QUEUE_MAX: 'many' } })
  t.equal(code, 1)
  t.match(stdout, /^wrong +settings +PORT is '70000'; it takes/m)
  t.match(stdout, /^wrong +settings +QUEUE_MAX is 'many'; it takes/m)
  t.equal(stderr, 'error: the service would not start\n')
})

t.test('--check names what is wrong with the limits file and the models, both', async t => {
  const folder = t.testdir({ 'limits.json': limits('platinum') })
  const args = ['serve', '--check', '--limits-file', `${folder}/limits.json`, '--models-dir', `${folder}/none`]
  const { code, stdout } = await cli(args)
  t.equal(code, 1)
  t.match(stdout, /^wrong +limits +.*\/keys\/0\/plan names no plan/m)
  t.match(stdout, /^wrong +start +the folder of models '.*none' does not exist/m)
})

t.test('--check only warns of a Redis that does not answer, without which the service starts', async t => {
  const { code, stdout } = await cli(['serve', '--check', '--redis-url', 'redis://127.0.0.1:1'])
  t.equal(code, 0)
  t.match(stdout, /^warning +Redis +does not answer/m)
})

t.test('what OpenTelemetry takes from the environment is checked too, and may be in a file', async t => {
  const file = `${t.testdir({ env: 'OTEL_TRACES_EXPORTER=pigeon\n' })}/env`
  for (const [args, given] of [
    [['serve', '--check'], { OTEL_TRACES_EXPORTER: 'pigeon' }],
    [['serve', '--check', '--env-file', file], {}],
  ] as const) {
    const { code, stdout } = await cli(args, { env: given })
    t.equal(code, 0)
    t.match(stdout, /^warning +traces +OTEL_TRACES_EXPORTER names 'pigeon'/m)
  }
})

t.test('a password is no option, and a file of settings that is not there is said', async t => {
  const { code, stderr } = await cli(['serve', '--redis-url', 'redis://:geheim@localhost'])
  t.equal(code, 2)
  t.match(stderr, /password/)
  t.notMatch(stderr, 'geheim')
  t.match(await cli(['serve', '--admin-token', 'geheim']), { code: 2, stderr: /unknown option '--admin-token'/ })
  t.match(await cli(['serve', '--env-file', '/none']), { code: 2, stderr: /'\/none' cannot be read \(ENOENT\)/ })
})

t.test('serve listens where its options say, and SIGTERM ends it with 0', async t => {
  const args = ['serve', '--host', '127.0.0.1', '--port', '0', '--rate-limit-max', '3', '--inference-threads', '1']
  const { child, ended } = runProgram(t, 'cli', args, { STOP_DELAY_MS: 0, RATE_LIMIT_MAX: 7 })
  const url = await new Promise<string>((resolve, reject) => {
    let output = ''
    child.stdout.on('data', data => {
      output += data
      const [, found] = /listening on (http:[^"]+)/.exec(output) ?? []
      if (found !== undefined) resolve(found)
    })
    void ended.then(({ stderr }) => reject(new Error(stderr)))
  })
  const standing = await fetch(`${url}/v1/limits`)
  t.match(await standing.json(), { policies: [{ limit: 3 }] })
  child.kill('SIGTERM')
  t.match(await ended, { code: 0, signal: null })
})

t.test('serve says what keeps it from starting and ends with 1', async t => {
  const { code, stderr } = await runProgram(t, 'cli', ['serve', '--port', 'http']).ended
  t.equal(code, 1)
  t.match(stderr, /^ml-api-rate-limiter cannot start: a setting is wrong\n {2}PORT is 'http'/)
  t.notMatch(stderr, /^\s+at /m)
})
