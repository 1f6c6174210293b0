import { createHash, randomUUID } from 'node:crypto'
import t, { type Test } from 'tap'
import { buildService, IRIS, inRedis } from '../support/build.js'
import { cli } from '../support/cli.js'

const KEY = 'the-key-of-somebody'
const sha256 = createHash('sha256').update(KEY).digest('hex')
const LIMITS = JSON.stringify({
  anonymous: 'free',
  plans: {
    free: { policies: [{ name: 'requests', limit: 5, window: '1h' }] },
    pro: {
      policies: [
        { name: 'requests', limit: 50, window: '1h' },
        { name: 'rows', unit: 'rows', limit: 100, window: '1h' },
      ],
      concurrency: 3,
    },
  },
  keys: [{ sha256, plan: 'pro' }],
})

/** A service that counts in Redis, and the environment that the command line needs to find its limits. */
async function limited(t: Test) {
  const settings = { ...inRedis(), LIMITS_FILE: `${t.testdir({ 'limits.json': LIMITS })}/limits.json` }
  const service = await buildService(t, settings)
  const env = Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, String(value)]))
  return { ...service, env }
}

t.test('inspect shows what a caller has used and reset gives it back, in the eyes of the service too', async t => {
  const { predict, env } = await limited(t)
  for (let sent = 0; sent < 7; sent++) await predict(IRIS)
  t.equal((await predict(IRIS)).statusCode, 429)

  const inspected = await cli(['inspect', '127.0.0.1'], { env })
  t.equal(inspected.code, 0)
  t.match(inspected.stdout, /^ip:127\.0\.0\.1 {2}plan free$/m)
  t.match(inspected.stdout, /^requests +requests +5 +3600 s +5 +0 +0 +\d+ s$/m)

  const reset = await cli(['reset', 'ip:127.0.0.1'], { env })
  t.equal(reset.code, 0)
  t.match(reset.stdout, /^requests +requests +5 +3600 s +0 +0 +5$/m)
  t.match(reset.stdout, /has its whole quota again/)
  // What the replica knows of its last denial it keeps for a second.
  await t.resolves(until(async () => (await predict(IRIS)).statusCode === 200))
})

t.test('an API key is named by its SHA-256, or read from a pipe', async t => {
  const { predict, env } = await limited(t)
  await predict({ ...IRIS, features: [IRIS.features, IRIS.features] }, { headers: { 'x-api-key': KEY } })
  const expected = {
    key: `key:${sha256}`,
    plan: 'pro',
    policies: [
      { name: 'requests', unit: 'requests', limit: 50, used: 1, remaining: 49, ahead: 0, windowSeconds: 3600 },
      { name: 'concurrency', unit: 'concurrent-requests', limit: 3 },
      { name: 'rows', unit: 'rows', limit: 100, used: 2, remaining: 98 },
    ],
  }
  for (const [key, input] of [[sha256], [`key:${sha256}`], ['-', `${KEY}\n`]] as const) {
    const { code, stdout } = await cli(['inspect', key, '--json'], { env, input: input ?? '' })
    t.equal(code, 0)
    t.match(JSON.parse(stdout), expected, key)
    t.notMatch(stdout, KEY)
  }
})

t.test('an address whose wrong keys were counted is inspected and reset with them', async t => {
  const { predict, env } = await limited(t)
  for (let sent = 0; sent < 3; sent++) await predict(IRIS, { headers: { 'x-api-key': 'wrong' } })
  const guesses = async (command: string) => {
    const { stdout } = await cli([command, '127.0.0.1', '--json'], { env })
    const { policies } = JSON.parse(stdout) as { policies: { name: string; used: number }[] }
    return policies.find(({ name }) => name === 'key-guesses')?.used
  }
  t.equal(await guesses('inspect'), 3)
  t.equal(await guesses('reset'), 0)
})

t.test('IPv6 addresses count by their /64 here as well', async t => {
  const env = { REDIS_URL: process.env.REDIS_URL, REDIS_NAMESPACE: `test:${randomUUID()}:` }
  for (const address of ['2001:db8::1', 'ip:2001:DB8::ffff', 'ip:2001:db8::/64']) {
    t.match((await cli(['inspect', address], { env })).stdout, /^ip:2001:db8:: {2}plan anonymous$/m, address)
  }
})

t.test('on a terminal the standing is a table with lines', async t => {
  const env = { REDIS_URL: process.env.REDIS_URL, NO_COLOR: '1' }
  const args = ['inspect', '192.0.2.1', '--redis-namespace', `test:${randomUUID()}:`, '--rate-limit-max', '12']
  const { stdout } = await cli(args, { env, terminal: true })
  t.match(stdout, /│ requests │ requests │ +12 │ +60 s │ +0 │ +0 │ +12 │ +│/)
})

t.test('what cannot be is said, without the key', async t => {
  const { env } = await limited(t)
  const unknown = await cli(['inspect', 'f'.repeat(64)], { env })
  t.match(unknown, { code: 1, stderr: /no such API key in the limits file/ })
  const plain = await cli(['inspect', KEY], { env })
  t.match(plain, { code: 2, stderr: /KEY takes an address, the SHA-256/ })
  t.notMatch(plain.stderr, KEY)
  t.match(await cli(['reset', '127.0.0.1']), { code: 2, stderr: /REDIS_URL is not set/ })
  const away = await cli(['inspect', '127.0.0.1'], { env: { REDIS_URL: 'redis://:geheim@127.0.0.1:1' } })
  t.match(away, { code: 1, stderr: /Redis does not answer at 127\.0\.0\.1:1\n/ })
  t.match(await cli(['inspect', '127.0.0.1'], { env: { REDIS_URL: 'localhost' } }), {
    code: 1,
    stderr: /REDIS_URL is not usable; it takes/,
  })
})

async function until(holds: () => Promise<boolean>): Promise<void> {
  while (!(await holds())) await new Promise(resolve => setTimeout(resolve, 100))
}
