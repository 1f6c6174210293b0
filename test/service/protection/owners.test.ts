/** Quotas of API keys and of their owners in one decision. */
import slotOf from 'cluster-key-slot'
import t, { type Test } from 'tap'
import { hashTagOf, keyOfId, keyOfOwner } from '../../../service/src/auth.js'
import { buildService, IRIS, inRedis, STORES } from '../../support/build.js'
import { adminOf, keysFile, TOKEN } from '../../support/keys.js'
import { limitsFile, rowsOf } from '../../support/limits-file.js'

const policies = [
  { name: 'key', limit: 3, window: '1 minute' },
  { name: 'owner', limit: 5, window: '1 minute', per: 'owner' },
  { name: 'key-rows', unit: 'rows', limit: 10, window: '1 minute' },
  { name: 'owner-rows', unit: 'rows', limit: 12, window: '1 minute', per: 'owner' },
]
const withKey = (key: string) => ({ headers: { 'x-api-key': key } })

async function open(t: Test, plan: object, settings: object) {
  const { path } = limitsFile(t, { anonymous: null, plans: { plan } })
  const service = await buildService(t, {
    ...{ KEYS_STORE: keysFile(t), ADMIN_TOKEN: TOKEN, LIMITS_FILE: path },
    ...settings,
  })
  const { admin, create } = adminOf(service.ask)
  const leftOf = async (key: string) =>
    Object.fromEntries(
      (await service.ask({ url: '/v1/limits', ...withKey(key) }))
        .json()
        .policies.map(({ name, remaining }: { name: string; remaining: number }) => [name, remaining]),
    )
  const keyOf = (owner: string) => create({ owner, plan: 'plan' })
  return { ...service, admin, keyOf, leftOf }
}

for (const { name, settings } of STORES) {
  t.test(`a request is charged to its key and its owner, or to neither, ${name}`, async t => {
    const { predict, keyOf, leftOf, admin } = await open(t, { policies, concurrency: 9 }, settings())
    const [one, two] = [await keyOf('acme'), await keyOf('acme')]
    for (let index = 0; index < 3; index++) t.equal((await predict(IRIS, withKey(one.key))).statusCode, 200)
    t.match((await predict(IRIS, withKey(one.key))).json(), { 'violated-policies': ['key'] })
    t.match(await leftOf(one.key), { key: 0, owner: 2, 'key-rows': 7, 'owner-rows': 9, concurrency: 9 })

    t.match((await predict(rowsOf(10), withKey(two.key))).json(), { 'violated-policies': ['owner-rows'] })
    t.match(await leftOf(two.key), { key: 2, owner: 1, 'key-rows': 10, 'owner-rows': 9 }, 'of its rows none')
    t.equal((await predict(rowsOf(9), withKey(two.key))).statusCode, 200)
    const denied = await predict(IRIS, withKey(two.key))
    t.match(denied.json(), { status: 429, 'violated-policies': ['owner'] })
    t.equal(denied.headers['x-ratelimit-limit'], '5')
    t.match(denied.headers.ratelimit, /^"key";r=1;t=\d+, "owner";r=0;t=\d+, "concurrency";r=9/)
    t.match(await leftOf(two.key), { key: 1, owner: 0, 'key-rows': 1, 'owner-rows': 0 })

    const { policies: standing } = (await admin('GET', `keys/${two.id}/limits`)).json()
    t.match(standing, [{ name: 'key', remaining: 1 }, { name: 'owner', remaining: 0, per: 'owner' }, {}, {}, {}])
    t.equal((await predict(IRIS, withKey((await keyOf('others')).key))).statusCode, 200)
  })
}

t.test('both are one call to Redis, of keys of one slot of a cluster', async t => {
  const settings = inRedis()
  const { predict, keyOf, app } = await open(t, { policies: policies.slice(0, 2) }, settings)
  const redis = app.redis as unknown as import('ioredis').Redis
  const { key } = await keyOf('acme & sons')
  t.equal((await predict(IRIS, withKey(key))).statusCode, 200)
  let calls = 0
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  redis.evalsha = ((...args: unknown[]) => {
    // Not what the replica announces of itself meanwhile.
    if (!args.some(arg => `${arg}`.includes('{replicas}'))) calls++
    return send(...args)
  }) as never
  t.equal((await predict(IRIS, withKey(key))).statusCode, 200)
  t.equal(calls, 1)
  const logs = (await redis.keys(`${settings.REDIS_NAMESPACE}*`)).filter(name => /:(?:key|owner)$/.test(name))
  t.equal(logs.length, 2)
  t.equal(new Set(logs.map(slotOf)).size, 1, logs.join(' '))
})

t.test('quota of a key and its owner is taken ahead together', async t => {
  const plenty = policies.slice(0, 2).map(policy => ({ ...policy, limit: 100_000 }))
  const { predict, keyOf, leftOf, app } = await open(t, { policies: plenty }, inRedis())
  const redis = app.redis as unknown as import('ioredis').Redis
  const { key } = await keyOf('acme')
  const send = redis.evalsha.bind(redis) as (...args: unknown[]) => Promise<unknown>
  let calls = 0
  redis.evalsha = ((...args: unknown[]) => {
    calls++
    return send(...args)
  }) as never
  const statuses = new Set<number>()
  for (let index = 0; index < 300; index++) statuses.add((await predict(IRIS, withKey(key))).statusCode)
  t.strictSame([...statuses], [200])
  t.ok(calls < 200, `${calls} calls`)
  t.strictSame(await leftOf(key), { key: 99_700, owner: 99_700 })
})

t.test('no key is taken for an owner, whatever owners are called', t => {
  const id = 'tY3f09aLq7WmZx2K'
  t.not(keyOfId(id, 'acme'), keyOfOwner(`acme/key:${id}`))
  t.not(keyOfId(id, 'a/owner:b'), keyOfId(id, 'b'))
  t.equal(hashTagOf(keyOfId(id, 'a/owner:b')), keyOfOwner('a/owner:b'))
  t.equal(hashTagOf(keyOfOwner('key:x/y')), keyOfOwner('key:x/y'))
  t.equal(hashTagOf('ip:192.0.2.1'), 'ip:192.0.2.1')
  t.end()
})
