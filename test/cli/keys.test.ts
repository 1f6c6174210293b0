import t, { type Test } from 'tap'
import { buildService, IRIS } from '../support/build.js'
import { cli } from '../support/cli.js'
import { KEY_STORES, keysFile } from '../support/keys.js'
import { limitsFile } from '../support/limits-file.js'
import { until } from '../support/redis-fleet.js'

const perMinute = (limit: number) => [{ name: 'requests', limit, window: '1 minute' }]
const LIMITS = { anonymous: 'free', plans: { free: { policies: perMinute(60) }, pro: { policies: perMinute(1000) } } }

const envOf = (t: Test, more: Record<string, string> = {}) => ({
  KEYS_STORE: keysFile(t),
  LIMITS_FILE: limitsFile(t, LIMITS).path,
  ...more,
})

for (const { name, settings } of KEY_STORES) {
  t.test(`keys are made, listed, rotated and revoked for a service that runs, ${name}`, async t => {
    const env = envOf(t, settings(t))
    const keys = (...args: string[]) => cli(['keys', ...args], { env })
    const { ask } = await buildService(t, env)
    const status = async (key: string) => (await ask({ url: '/v1/limits', headers: { 'x-api-key': key } })).statusCode
    const made = await keys('create', '--owner', 'acme', '--plan', 'pro', '--name', 'ci', '--models', 'iris,digits')
    t.equal(made.code, 0, made.stderr)
    t.match(made.stdout, /^mlk_[0-9A-Za-z]{8}_[0-9A-Za-z]{38}\n$/, 'the key alone')
    t.match(made.stderr, /^key [0-9A-Za-z]{16} of acme, plan pro; the key is shown this once\n$/)
    const key = made.stdout.trim()
    await until('the service knows it', async () => (await status(key)) === 200)

    const [listed] = JSON.parse((await keys('list', '--json')).stdout)
    t.match(listed, { owner: 'acme', plan: 'pro', name: 'ci', models: ['iris', 'digits'], standing: 'active' })
    const table = await keys('list', '--owner', 'acme')
    t.match(
      table.stdout,
      new RegExp(`^id .*\\n${listed.id} +acme +pro +ci +iris,digits +active +\\d{4}-\\d\\d-\\d\\d\\n$`),
    )
    t.notMatch((await keys('list', '--owner', 'nobody')).stdout, listed.id)

    const rotated = JSON.parse((await keys('rotate', listed.id, '--overlap', '1h', '--json')).stdout)
    await until('the service knows the new one', async () => (await status(rotated.key)) === 200)
    t.equal(await status(key), 200)
    t.match(await keys('revoke', listed.id), { code: 0, stdout: `key ${listed.id} of acme, plan pro is revoked\n` })
    await until('both are refused', async () => (await status(key)) !== 200 && (await status(rotated.key)) !== 200)
    t.match(await keys('revoke', listed.id), { code: 1, stderr: /there is no key with the id/ })
  })
}

t.test('a wrong call says what is wrong', async t => {
  const env = envOf(t)
  const keys = (...args: string[]) => cli(['keys', ...args], { env })
  t.match(await keys(), { code: 2, stderr: /missing required argument 'action'/ })
  t.match(await keys('delete'), { code: 2, stderr: /create, list, revoke, rotate/ })
  t.match(await keys('create', '--owner', 'acme'), { code: 2, stderr: /needs --owner and --plan/ })
  t.match(await keys('create', '--owner', 'acme', '--plan', 'gold'), {
    code: 1,
    stderr: /plan is not a plan.*free, pro/,
  })
  t.match(await keys('create', '--owner', 'a', '--plan', 'pro', '--models', 'nome'), {
    code: 1,
    stderr: /is not a model/,
  })
  t.match(await keys('create', '--owner', 'a', '--plan', 'pro', '--expires-at', '2001-01-01'), {
    code: 1,
    stderr: /over/,
  })
  // As the admin API does.
  for (const [given, stderr] of [
    [['--owner', ''], /owner takes 1 to 128 characters/],
    [['--owner', 'two\nlines'], /owner takes .* no control characters/],
    [['--owner', 'x'.repeat(129)], /owner takes/],
    [['--owner', 'a', '--name', ''], /name takes/],
    [['--owner', 'a', '--models', 'iris,iris'], /models\[1\] is there twice/],
  ] as const) {
    t.match(await keys('create', '--plan', 'pro', ...given), { code: 1, stdout: '', stderr })
  }
  t.match(await keys('revoke'), { code: 2, stderr: /takes the id of a key/ })
  t.match(await keys('list', 'x'), { code: 2, stderr: /takes no id/ })
  t.match(await keys('revoke', 'x', '--plan', 'pro'), { code: 2, stderr: /takes no --plan/ })
  t.match(await keys('list', '--keys-store', 'redis://:secret@localhost'), {
    code: 2,
    stderr: /set KEYS_STORE instead/,
  })
  t.match(await cli(['keys', 'list', '--keys-store', 'redis://127.0.0.1:1'], { env: {} }), {
    code: 1,
    stderr: /does not answer/,
  })
})

t.test('inspect shows where a key of the store stands, by its id, its digest or itself', async t => {
  const [, inRedis] = KEY_STORES
  const env = envOf(t, { ...inRedis?.settings(t), REDIS_URL: process.env.REDIS_URL as string })
  const { predict } = await buildService(t, { ...env, STORE_TIMEOUT_MS: 5000 })
  const made = JSON.parse((await cli(['keys', 'create', '--owner', 'a', '--plan', 'pro', '--json'], { env })).stdout)
  await until('it is known', async () => {
    return (await predict(IRIS, { headers: { 'x-api-key': made.key } })).statusCode === 200
  })
  for (const [given, input] of [
    [made.id, ''],
    [`key:${made.id}`, ''],
    ['-', made.key],
  ] as const) {
    const shown = await cli(['inspect', given, '--json'], { env, input })
    t.equal(shown.code, 0, shown.stderr)
    t.match(JSON.parse(shown.stdout), { key: `key:${made.id}`, plan: 'pro', policies: [{ limit: 1000, used: 1 }] })
  }
})
