/** Plans that tell models apart: policies of some, prices, and models that are not for everybody. */
import { cpSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { readPlans } from '../../../service/src/protection/plans.js'
import { buildService, IRIS, STORES } from '../../support/build.js'
import { adminOf, keysFile, TOKEN } from '../../support/keys.js'
import { limitsFile, rowsOf, sha256, v2RowsOf } from '../../support/limits-file.js'

/** Iris costs 2 credits a request and 3 a row, and digits what is the default. */
const MODELS_DIR = mkdtempSync(join(tmpdir(), 'priced-'))
t.teardown(() => rmSync(MODELS_DIR, { recursive: true, force: true }))
for (const name of ['iris', 'digits']) {
  cpSync(fileURLToPath(new URL(`../../../models/${name}`, import.meta.url)), join(MODELS_DIR, name), {
    recursive: true,
  })
}
const irisJson = join(MODELS_DIR, 'iris/model.json')
writeFileSync(irisJson, JSON.stringify({ ...JSON.parse(readFileSync(irisJson, 'utf8')), cost: { request: 2, row: 3 } }))

const DIGITS = { model: 'digits', features: new Array(64).fill(0) }
const requests = { name: 'requests', limit: 100, window: '1 minute' }
const withKey = (key: string) => ({ headers: { 'x-api-key': key } })

const open = async (t: Test, plan: object, settings = {}, more: object = {}) => {
  const { path } = limitsFile(t, {
    anonymous: 'plan',
    plans: { plan: { policies: [requests], ...plan } },
    keys: [{ sha256: sha256('one'), plan: 'plan' }],
    ...more,
  })
  return buildService(t, { MODELS_DIR, LIMITS_FILE: path, ...settings })
}

const leftOf = async (service: Awaited<ReturnType<typeof open>>, more = {}) =>
  Object.fromEntries(
    (await service.ask({ url: '/v1/limits', ...more }))
      .json()
      .policies.map(({ name, remaining }: { name: string; remaining: number }) => [name, remaining]),
  )

for (const { name, settings } of STORES) {
  t.test(`a policy that names models counts their requests alone, by both protocols, ${name}`, async t => {
    const policies = [
      requests,
      { name: 'iris', limit: 2, window: '1 minute', models: ['iris'] },
      { name: 'iris-rows', unit: 'rows', limit: 10, window: '1 minute', models: ['iris'] },
      { name: 'digits-rows', unit: 'rows', limit: 1, window: '1 minute', models: ['digits'] },
    ]
    const service = await open(t, { policies }, settings())
    const { predict, ask } = service
    t.equal((await predict(DIGITS)).statusCode, 200)
    t.equal((await predict(DIGITS)).statusCode, 429)
    t.equal((await predict(rowsOf(6))).statusCode, 200)
    t.strictSame(await leftOf(service), { requests: 97, iris: 1, 'iris-rows': 4, 'digits-rows': 0 })
    const denied = await predict(rowsOf(5))
    t.match(denied.json(), { status: 429, 'violated-policies': ['iris-rows'] })
    t.equal((await leftOf(service)).iris, 1, 'all of them, or none')
    const v2 = await ask({ method: 'POST', url: '/v2/models/iris/infer', payload: v2RowsOf(1) })
    t.equal(v2.statusCode, 200)
    t.match(v2.headers['ratelimit-policy'], /"requests".*"iris".*"iris-rows"/)
    t.notMatch(v2.headers['ratelimit-policy'], /digits/)
    t.match((await predict(IRIS)).json(), { status: 429, 'violated-policies': ['iris'] })
    t.match((await ask('/v1/limits')).json().policies[1], { name: 'iris', models: ['iris'] })
  })

  t.test(`credits are the price of the model, or that of the plan, ${name}`, async t => {
    const credits = { name: 'credits', unit: 'credits', limit: 100, window: '1 minute' }
    const service = await open(t, { policies: [requests, credits] }, settings())
    t.equal((await service.predict(rowsOf(4))).statusCode, 200)
    t.equal((await leftOf(service)).credits, 86, '2 and 4 times 3')
    t.equal((await service.predict(DIGITS)).statusCode, 200)
    t.equal((await leftOf(service)).credits, 85, 'a request by default')
    const never = await service.predict(rowsOf(34))
    t.match(never.json(), { status: 413, code: 'TOO_MANY_ROWS', detail: /send at most 32 at once/ })
    const v2 = { method: 'POST', url: '/v2/models/iris/infer', payload: v2RowsOf(34) } as const
    t.match((await service.ask(v2)).json(), { error: /send at most 32 at once$/ })

    const costs = { iris: { row: 10 }, digits: { request: 0 } }
    const own = await open(t, { policies: [requests, credits], costs }, settings())
    t.equal((await own.predict(rowsOf(3))).statusCode, 200)
    t.equal((await own.predict(DIGITS)).statusCode, 200)
    t.equal((await leftOf(own)).credits, 68)
    const denied = await own.predict(rowsOf(7))
    t.match(denied.json(), { status: 429, 'violated-policies': ['credits'] })
  })
}

t.test('a plan may allow and deny models: 403 before anything is charged', async t => {
  const service = await open(t, { models: { deny: ['iris'] } })
  const url = '/v1/models/iris/predict'
  const refused = await service.ask({ method: 'POST', url, payload: IRIS })
  t.match(refused.json(), {
    status: 403,
    code: 'MODEL_NOT_ALLOWED',
    detail: /the plan 'plan' is not for the model 'iris'/,
  })
  t.strictSame(await leftOf(service), { requests: 100 })
  t.match((await service.predict({ model: 'iris', features: 'of no kind' })).json(), { code: 'MODEL_NOT_ALLOWED' })
  t.equal((await service.predict(DIGITS)).statusCode, 200)
  const allowing = await open(t, { models: { allow: ['digits', 'iris'], deny: ['iris'] } })
  t.match((await allowing.predict(IRIS)).json(), { code: 'MODEL_NOT_ALLOWED', available: ['digits'] })
  t.equal((await allowing.predict(DIGITS)).statusCode, 200)
})

for (const { name, settings } of STORES) {
  t.test(`the keys of an owner share what their plan says is per owner, ${name}`, async t => {
    const policies = [
      { name: 'key', limit: 3, window: '1 minute' },
      { name: 'owner', limit: 5, window: '1 minute', per: 'owner' },
      { name: 'owner-rows', unit: 'rows', limit: 100, window: '1 minute', per: 'owner' },
    ]
    const more = { KEYS_STORE: keysFile(t), ADMIN_TOKEN: TOKEN, ...settings() }
    const service = await open(t, { policies }, more)
    const { create } = adminOf(service.ask)
    const [one, two] = [await create({ owner: 'acme', plan: 'plan' }), await create({ owner: 'acme', plan: 'plan' })]
    const other = await create({ owner: 'others', plan: 'plan' })
    const ask = async (key: string) => (await service.predict(IRIS, withKey(key))).statusCode
    for (let index = 0; index < 3; index++) t.equal(await ask(one.key), 200)
    t.equal(await ask(one.key), 429, 'its own quota')
    t.strictSame(await leftOf(service, withKey(one.key)), { key: 0, owner: 2, 'owner-rows': 97 })
    t.equal(await ask(two.key), 200)
    t.equal(await ask(two.key), 200)
    const denied = await service.predict(IRIS, withKey(two.key))
    t.match(denied.json(), { status: 429, 'violated-policies': ['owner'] })
    t.strictSame(await leftOf(service, withKey(two.key)), { key: 1, owner: 0, 'owner-rows': 95 }, 'charged to neither')
    t.equal(await ask(other.key), 200)
    for (let index = 0; index < 3; index++) t.equal(await ask('one'), 200, 'a key without an owner is one by itself')
    t.equal(await ask('one'), 429)
  })
}

t.test('a window may be as long as 31 days, and counts', async t => {
  for (const { settings } of STORES) {
    const policies = [{ name: 'month', limit: 2, window: '31 days' }]
    const service = await open(t, { policies }, settings())
    for (const status of [200, 200, 429]) t.equal((await service.predict(IRIS)).statusCode, status)
    const denied = await service.predict(IRIS)
    t.ok(Number(denied.headers['retry-after']) > 30 * 86_400)
    t.match(denied.headers['ratelimit-policy'], `"month";q=2;w=${31 * 86_400}`)
  }
})

t.test('what is wrong in a plan is named by its path', async t => {
  const problemOf = (plan: object) => {
    const { path } = limitsFile(t, { anonymous: 'p', plans: { p: { policies: [requests], ...plan } } })
    try {
      readPlans(path)
    } catch (error) {
      return (error as Error).message
    }
    return ''
  }
  t.match(problemOf({ policies: [{ ...requests, models: ['iris'] }] }), /policies needs one in requests of all models/)
  t.match(problemOf({ policies: [{ ...requests, models: [] }] }), /policies\/0\/models/)
  t.match(problemOf({ policies: [{ ...requests, per: 'team' }] }), /policies\/0\/per/)
  t.match(problemOf({ costs: { iris: { row: -1 } } }), /costs\/iris\/row/)
  t.match(problemOf({ costs: { iris: { column: 1 } } }), /costs\/iris/)
  t.match(problemOf({ models: { deny: 'iris' } }), /models\/deny/)
})
