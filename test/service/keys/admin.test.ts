/** Keys that are made at run time, over the admin API, in either store. */
import { chmodSync } from 'node:fs'
import { dirname, join } from 'node:path'
import Fastify from 'fastify'
import t, { type Test } from 'tap'
import { readConfig } from '../../../service/src/config.js'
import { openKeys } from '../../../service/src/open-keys.js'
import { buildService, IRIS, startService } from '../../support/build.js'
import { AS_ADMIN, adminOf, KEY_STORES, keysFile, TOKEN } from '../../support/keys.js'
import { limitsFile, sha256 } from '../../support/limits-file.js'
import { until } from '../../support/redis-fleet.js'

const perMinute = (limit: number) => [{ name: 'requests', limit, window: '1 minute' }]
const LIMITS = {
  anonymous: 'free',
  plans: { free: { policies: perMinute(3) }, pro: { policies: perMinute(5) } },
  keys: [{ sha256: sha256('of the file'), plan: 'pro' }],
}

const withKey = (key: string, more = {}) => ({ headers: { 'x-api-key': key }, ...more })

for (const { name, settings } of KEY_STORES) {
  const open = async (t: Test, more: Record<string, string> = {}) => {
    const given = { ...settings(t), LIMITS_FILE: limitsFile(t, LIMITS).path, ...more }
    const service = await buildService(t, given)
    return { ...service, ...adminOf(service.ask), given }
  }

  t.test(`a key is made, used, listed, changed and revoked, ${name}`, async t => {
    const { admin, predict, ask } = await open(t)
    const made = await admin('POST', 'keys', { owner: 'acme', plan: 'pro', name: 'ci' })
    t.equal(made.statusCode, 201)
    t.equal(made.headers['cache-control'], 'no-store')
    const { id, key, ...shown } = made.json()
    t.match(id, /^[0-9A-Za-z]{16}$/)
    t.match(key, new RegExp(`^mlk_${id.slice(0, 8)}_`))
    t.equal(made.headers.location, `/v1/admin/keys/${id}`)
    t.match(shown, {
      ...{ owner: 'acme', plan: 'pro', name: 'ci', models: null, expiresAt: null, disabled: false },
      ...{ standing: 'active', shown: `mlk_${id.slice(0, 8)}_…`, outgoing: [] },
    })
    t.match(shown.createdAt, /^\d{4}-\d\d-\d\dT[\d:.]+Z$/)

    const answer = await predict(IRIS, withKey(key))
    t.equal(answer.statusCode, 200)
    t.equal(answer.headers['x-ratelimit-limit'], '5')
    t.match((await ask({ url: '/v1/limits', ...withKey(key) })).json(), { plan: 'pro', policies: [{ remaining: 4 }] })

    t.strictSame((await admin('GET', `keys/${id}`)).json(), { id, ...shown }, 'the key is not shown again')
    t.strictSame((await admin('GET', 'keys')).json(), { keys: [{ id, ...shown }], next: null })

    const patched = await admin('PATCH', `keys/${id}`, { plan: 'free', name: null, models: ['iris'], disabled: true })
    t.equal(patched.statusCode, 200)
    t.match(patched.json(), { id, plan: 'free', name: null, models: ['iris'], disabled: true, standing: 'disabled' })
    t.equal((await predict(IRIS, withKey(key))).statusCode, 401)
    await admin('PATCH', `keys/${id}`, { disabled: false })
    t.equal((await predict(IRIS, withKey(key))).headers['x-ratelimit-limit'], '3', 'the plan that it has now')

    const removed = await admin('DELETE', `keys/${id}`)
    t.equal(removed.statusCode, 204)
    t.equal(removed.body, '')
    const refused = await predict(IRIS, withKey(key))
    t.equal(refused.statusCode, 401)
    t.match(refused.json(), { code: 'UNKNOWN_KEY' })
    for (const method of ['GET', 'DELETE'])
      t.match((await admin(method, `keys/${id}`)).json(), { status: 404, code: 'KEY_NOT_FOUND' })
    t.match((await admin('PATCH', `keys/${id}`, { disabled: true })).json(), { code: 'KEY_NOT_FOUND' })
    t.match((await admin('POST', `keys/${id}/rotate`, {})).json(), { code: 'KEY_NOT_FOUND' })
  })

  t.test(`keys of the limits file go on working, and what is no key gets 401, ${name}`, async t => {
    const { predict, create } = await open(t)
    const { key } = await create({ owner: 'acme', plan: 'pro' })
    t.equal((await predict(IRIS, withKey('of the file'))).statusCode, 200)
    const mistyped = `${key.slice(0, -1)}${key.endsWith('0') ? '1' : '0'}`
    const texts = []
    for (const wrong of ['x', mistyped, 'mlk_', `${key} `.trimEnd().toLowerCase()]) {
      const refused = await predict(IRIS, withKey(wrong))
      t.equal(refused.statusCode, 401)
      texts.push(JSON.stringify({ ...refused.json(), instance: '' }))
    }
    t.equal(new Set(texts).size, 1, 'a mistyped key is told apart from others by nothing')
    t.equal((await predict(IRIS, withKey(key))).statusCode, 200)
    t.equal((await predict(IRIS)).statusCode, 200, 'and no key is the anonymous plan')
  })

  t.test(`a rotated key lives on for the overlap, with the quota of the new one, ${name}`, async t => {
    const { admin, predict, create } = await open(t)
    const first = await create({ owner: 'acme', plan: 'pro' })
    const rotated = await admin('POST', `keys/${first.id}/rotate`, { overlapSeconds: 3600 })
    t.equal(rotated.statusCode, 201)
    const second = rotated.json()
    t.equal(second.id, first.id)
    t.not(second.key, first.key)
    t.equal(second.outgoing.length, 1)
    for (const [index, key] of [first.key, second.key, first.key, second.key, first.key].entries()) {
      t.equal((await predict(IRIS, withKey(key))).headers['x-ratelimit-remaining'], `${4 - index}`, 'one quota')
    }
    t.equal((await predict(IRIS, withKey(second.key))).statusCode, 429)
    const third = (await admin('POST', `keys/${first.id}/rotate`)).json()
    t.strictSame(third.outgoing, [], 'without an overlap the old ones end at once')
    for (const { key } of [first, second]) t.equal((await predict(IRIS, withKey(key))).statusCode, 401)
    t.equal((await predict(IRIS, withKey(third.key))).statusCode, 429, 'and the quota is the same still')
    const short = (await admin('POST', `keys/${first.id}/rotate`, { overlapSeconds: 1 })).json()
    await until('the overlap is over', async () => (await predict(IRIS, withKey(third.key))).statusCode === 401)
    t.equal((await predict(IRIS, withKey(short.key))).statusCode, 429)
  })

  t.test(`a key ends when it says, ${name}`, async t => {
    const { ask, create, admin } = await open(t)
    const inMs = (ms: number) => new Date(Date.now() + ms).toISOString().replace('Z', '+00:00')
    const { key, id } = await create({ owner: 'acme', plan: 'pro', expiresAt: inMs(3_600_000) })
    const status = async () => (await ask({ url: '/v1/limits', ...withKey(key) })).statusCode
    t.equal(await status(), 200)
    t.equal((await admin('PATCH', `keys/${id}`, { expiresAt: inMs(1000) })).statusCode, 200)
    await until('it has ended', async () => (await status()) === 401)
    t.match((await admin('GET', `keys/${id}`)).json(), { standing: 'expired' })
    await admin('PATCH', `keys/${id}`, { expiresAt: null })
    t.equal(await status(), 200)
  })

  t.test(`a key that names models is for them alone: 403 before anything is charged, ${name}`, async t => {
    const { predict, ask, create } = await open(t)
    const { key } = await create({ owner: 'acme', plan: 'pro', models: ['digits'] })
    const refused = await ask({ method: 'POST', url: '/v1/models/iris/predict', payload: IRIS, ...withKey(key) })
    t.equal(refused.statusCode, 403)
    t.match(refused.json(), { code: 'MODEL_NOT_ALLOWED', available: ['digits'] })
    t.match((await ask({ url: '/v1/limits', ...withKey(key) })).json(), { policies: [{ remaining: 5 }] })
    t.match((await predict({ model: 'iris' }, withKey(key))).json(), { code: 'MODEL_NOT_ALLOWED' }, 'before its rows')
    const v2 = await ask({ method: 'POST', url: '/v2/models/iris/infer', payload: {}, ...withKey(key) })
    t.equal(v2.statusCode, 403)
    t.equal(v2.headers['x-error-code'], 'MODEL_NOT_ALLOWED')
    t.equal((await ask({ url: '/v1/models/iris/sample', ...withKey(key) })).statusCode, 403)
    t.equal((await ask({ url: '/v1/models/digits/sample', ...withKey(key) })).statusCode, 200)
    t.equal((await ask({ url: '/v1/models/none/sample', ...withKey(key) })).statusCode, 404)
  })

  t.test(`lists are filtered and come page by page, and nothing is shown twice, ${name}`, async t => {
    const { admin, create } = await open(t)
    const made: string[] = []
    for (let index = 0; index < 7; index++) {
      made.push((await create({ owner: index % 2 ? 'odd' : 'even', plan: index < 5 ? 'pro' : 'free' })).id)
    }
    await admin('PATCH', `keys/${made[6]}`, { disabled: true })
    const listed = async (query: string) => {
      const { keys, next } = (await admin('GET', `keys?${query}`)).json()
      return { ids: keys.map(({ id }: { id: string }) => id), next }
    }
    t.strictSame((await listed('')).ids, made)
    t.strictSame((await listed('owner=odd')).ids, [made[1], made[3], made[5]])
    t.strictSame((await listed('plan=free&disabled=false')).ids, [made[5]])
    t.strictSame((await listed('disabled=true')).ids, [made[6]])
    t.strictSame((await listed('owner=nobody')).ids, [])
    const seen: string[] = []
    let cursor = ''
    for (let page = 0; page < 3; page++) {
      const { ids, next } = await listed(`limit=3${cursor}`)
      seen.push(...ids)
      cursor = `&cursor=${next}`
      t.equal(next === null, page === 2)
    }
    t.strictSame(seen, made)
  })

  t.test(`what is wrong with a request is said by its path, and nothing is changed, ${name}`, async t => {
    const { admin, create } = await open(t)
    const { id } = await create({ owner: 'acme', plan: 'pro' })
    const before = (await admin('GET', 'keys')).json()
    const wrong: readonly (readonly [method: string, path: string, body: object | undefined, error: object])[] = [
      ['POST', 'keys', { plan: 'pro' }, { message: /owner/ }],
      ['POST', 'keys', { owner: '', plan: 'pro' }, { path: 'owner' }],
      ['POST', 'keys', { owner: 7, plan: 'pro' }, { path: 'owner' }],
      ['POST', 'keys', { owner: 'a\u0000b', plan: 'pro' }, { path: 'owner', message: /no control characters/ }],
      ['POST', 'keys', { owner: 'a', plan: 'pro', expiresAt: '9999-12-31T23:59:59-01:00' }, { path: 'expiresAt' }],
      ['PATCH', `keys/${id}`, { name: 'a\tb' }, { path: 'name', message: /no control characters/ }],
      ['PATCH', `keys/${id}`, { name: 5 }, { path: 'name', message: 'must be string' }],
      ['POST', 'keys', { owner: 'half of a pair: \ud83d', plan: 'pro' }, { path: 'owner' }],
      ['POST', 'keys', { owner: 'a', plan: 'none' }, { path: 'plan', message: 'is not a plan; there is: free, pro' }],
      [
        'POST',
        'keys',
        { owner: 'a', plan: 'pro', models: ['nome'] },
        { path: 'models[0]', message: /there is: digits/ },
      ],
      ['POST', 'keys', { owner: 'a', plan: 'pro', expiresAt: 'soon' }, { path: 'expiresAt', message: /ISO 8601/ }],
      ['POST', 'keys', { owner: 'a', plan: 'pro', expiresAt: '2001-01-01' }, { path: 'expiresAt', message: /over/ }],
      ['POST', 'keys', { owner: 'a', plan: 'pro', expiresAt: '2030-02-30T00:00:00Z' }, { path: 'expiresAt' }],
      ['POST', 'keys', { owner: 'a', plan: 'pro', id: 'mine' }, { path: 'id', message: 'is not known here' }],
      ['PATCH', `keys/${id}`, { owner: 'b' }, { path: 'owner', message: 'is not known here' }],
      ['PATCH', `keys/${id}`, { plan: 'none' }, { path: 'plan' }],
      ['PATCH', `keys/${id}`, { disabled: 'yes' }, { path: 'disabled' }],
      ['PATCH', `keys/${id}`, {}, {}],
      ['POST', `keys/${id}/rotate`, { overlapSeconds: -1 }, {}],
      ['POST', `keys/${id}/rotate`, { overlapSeconds: 1e9 }, {}],
      ['GET', 'keys?limit=0', undefined, { path: 'limit', message: 'takes an integer, 1 to 1000' }],
      ['GET', 'keys?limit=1001', undefined, { path: 'limit' }],
      ['GET', 'keys?cursor=x', undefined, { path: 'cursor' }],
      ['GET', 'keys?disabled=maybe', undefined, { path: 'disabled', message: 'takes one of true, false' }],
      ['GET', 'keys?colour=red', undefined, { path: 'colour' }],
    ]
    for (const [method, path, body, error] of wrong) {
      const refused = await admin(method, path, body)
      t.equal(refused.statusCode, 400, `${method} ${path} ${JSON.stringify(body)}: ${refused.body}`)
      t.match(refused.json(), { code: 'INVALID_REQUEST', errors: [error] })
      t.equal(refused.json().errors.length, 1, 'one reason')
    }
    t.strictSame((await admin('GET', 'keys')).json(), before)
  })

  t.test(`without the admin token nobody is told anything, ${name}`, async t => {
    const { admin, create, ask } = await open(t)
    const { id, key } = await create({ owner: 'acme', plan: 'pro' })
    const urls = ['keys', `keys/${id}`, 'keys/AAAAAAAAAAAAAAAA', `keys/${id}/rotate`, 'keys?limit=0']
    const texts = new Set<string>()
    let asked = 0
    for (const token of ['', TOKEN.slice(1), `${TOKEN}x`, TOKEN.toUpperCase(), key, 'x'.repeat(5000)]) {
      for (const [index, url] of urls.entries()) {
        const method = index === 3 ? 'POST' : 'GET'
        const refused = await ask({
          method,
          url: `/v1/admin/${url}`,
          headers: { authorization: `Bearer ${token}` },
          remoteAddress: `198.51.100.${asked++}`,
        })
        t.equal(refused.statusCode, 401, `${method} ${url}`)
        texts.add(JSON.stringify({ ...refused.json(), instance: '' }))
      }
    }
    t.equal(texts.size, 1, 'no id is told apart, nor any token')
    t.equal((await admin('GET', 'keys', undefined, {})).statusCode, 401)
    t.equal((await admin('GET', 'keys', undefined, { 'x-api-key': key })).statusCode, 401)
    t.equal((await admin('GET', 'keys', undefined, AS_ADMIN)).json().keys.length, 1)
  })

  t.test(`a service that starts again knows the keys, and the other replica hears of each change, ${name}`, async t => {
    const one = await open(t)
    const two = await buildService(t, one.given)
    const { key, id } = await one.create({ owner: 'acme', plan: 'pro' })
    const status = async () => (await two.predict(IRIS, withKey(key))).statusCode
    await until('the other knows it', async () => (await status()) === 200)
    await one.admin('DELETE', `keys/${id}`)
    // 401, or 429 where it was asked ten times before it knew the key.
    await until('the other knows that it is revoked', async () => (await status()) !== 200)
    const left = await adminOf(two.ask).create({ owner: 'acme', plan: 'pro' })
    await one.app.close()
    const three = await buildService(t, one.given)
    t.equal((await three.predict(IRIS, withKey(left.key))).statusCode, 200)
    t.equal((await three.predict(IRIS, withKey(key, { remoteAddress: '198.51.100.9' }))).statusCode, 401)
  })

  t.test(`a key that one replica has just made can be read, changed and revoked at the other, ${name}`, async t => {
    const one = await open(t)
    const two = adminOf((await buildService(t, one.given)).ask)
    const made = async () => (await one.create({ owner: 'acme', plan: 'pro' })).id
    t.equal((await two.admin('GET', `keys/${await made()}`)).statusCode, 200)
    t.equal((await two.admin('GET', `keys/${await made()}/limits`)).statusCode, 200)
    t.equal((await two.admin('PATCH', `keys/${await made()}`, { disabled: true })).statusCode, 200)
    t.equal((await two.admin('POST', `keys/${await made()}/rotate`)).statusCode, 201)
    t.equal((await two.admin('DELETE', `keys/${await made()}`)).statusCode, 204)
  })

  t.test(`no rotation ends the overlap of an earlier one before its time, ${name}`, async t => {
    const { admin, create, ask } = await open(t)
    const { id, key } = await create({ owner: 'acme', plan: 'pro' })
    const rotate = (overlapSeconds: number) => admin('POST', `keys/${id}/rotate`, { overlapSeconds })
    const status = async () => (await ask({ url: '/v1/limits', ...withKey(key) })).statusCode
    for (let old = 1; old <= 9; old++) t.equal((await rotate(3600)).json().outgoing.length, old)
    t.match((await rotate(3600)).json(), { status: 409, code: 'TOO_MANY_ROTATIONS', detail: /without an overlap/ })
    t.equal(await status(), 200, 'the first text still works')
    t.strictSame((await rotate(0)).json().outgoing, [])
    t.equal(await status(), 401)
  })

  t.test(`two that change one key at once lose neither change, ${name}`, async t => {
    const one = await open(t)
    const two = adminOf((await buildService(t, one.given)).ask)
    const { id } = await one.create({ owner: 'acme', plan: 'pro' })
    await until('the other knows it', async () => (await two.admin('GET', `keys/${id}`)).statusCode === 200)
    const answers = await Promise.all([
      one.admin('PATCH', `keys/${id}`, { name: 'a name' }),
      two.admin('PATCH', `keys/${id}`, { plan: 'free' }),
      one.admin('PATCH', `keys/${id}`, { models: ['iris'] }),
    ])
    t.strictSame(
      answers.map(({ statusCode }) => statusCode),
      [200, 200, 200],
    )
    await until('all three are there', async () => {
      const { name, plan, models } = (await one.admin('GET', `keys/${id}`)).json()
      return name === 'a name' && plan === 'free' && models?.[0] === 'iris'
    })
  })
}

const asRoot = process.getuid?.() === 0 ? 'root can write everywhere' : false

t.test('the start says so if the file of the keys cannot be written', { skip: asRoot }, async t => {
  const told = async (path: string) => {
    let lines = ''
    const app = Fastify({ logger: { level: 'warn', stream: { write: (line: string) => (lines += line) } } })
    t.teardown(() => app.close())
    await openKeys(app, readConfig({ KEYS_STORE: path }))
    return lines
  }
  const path = keysFile(t)
  t.equal(await told(path), '')
  chmodSync(dirname(path), 0o500)
  t.match(await told(path), /cannot be written, so no key can be made/)
  t.match(await told(join(dirname(path), 'a', 'b')), /cannot be written, so no key can be made/)
})

t.test('every change is in the log, under a name that stays, and never a secret', async t => {
  const { url, output } = await startService(t, {
    ...{ KEYS_STORE: keysFile(t), ADMIN_TOKEN: TOKEN, LIMITS_FILE: limitsFile(t, LIMITS).path, LOG_LEVEL: 'trace' },
  })
  const admin = async (method: string, path: string, body: object) => {
    const headers = { ...AS_ADMIN, 'content-type': 'application/json' }
    const answer = await fetch(`${url}/v1/admin/${path}`, { method, headers, body: JSON.stringify(body) })
    return (answer.status === 204 ? {} : await answer.json()) as { id: string; key: string }
  }
  const { id, key } = await admin('POST', 'keys', { owner: 'acme', plan: 'pro' })
  await admin('PATCH', `keys/${id}`, { plan: 'free' })
  const rotated = await admin('POST', `keys/${id}/rotate`, { overlapSeconds: 60 })
  await admin('DELETE', `keys/${id}`, {})
  await admin('POST', 'reload', {})
  for (const verb of ['unload', 'load']) await admin('POST', `../../v2/repository/models/iris/${verb}`, {})
  for (const [method, path] of [
    ['DELETE', `keys/${id}`],
    ['PATCH', 'keys/none'],
  ] as const)
    await admin(method, path, { plan: 'free' })
  const told = () =>
    output()
      .split('\n')
      .filter(line => line.includes('"audit":'))
      .map(line => JSON.parse(line).audit)
  await until('all is told', async () => told().length >= 7)
  t.match(told(), [
    { event: 'key.create', actor: 'admin', ip: '127.0.0.1', keyId: id, owner: 'acme', plan: 'pro' },
    { event: 'key.patch', keyId: id, changes: { plan: ['pro', 'free'] } },
    { event: 'key.rotate', keyId: id, overlapSeconds: 60 },
    { event: 'key.delete', keyId: id },
    { event: 'models.reload', limits: true },
    { event: 'model.unload', model: 'iris' },
    { event: 'model.load', model: 'iris' },
  ])
  t.equal(told().length, 7, 'and what changed nothing is not')
  for (const secret of [TOKEN, key, rotated.key]) {
    t.notOk(output().includes(secret))
    t.notOk(output().includes(sha256(secret)))
  }
})
