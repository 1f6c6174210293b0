/** What was used, as its users and the operator are told. */
import t, { type Test } from 'tap'
import { hourOf, type UsageBatch, UsageSum } from '../../../service/src/usage/entry.js'
import { FileUsageStore } from '../../../service/src/usage/file-usage-store.js'
import { UsageMeter } from '../../../service/src/usage/usage-meter.js'
import { csvOf, reportOf } from '../../../service/src/usage/usage-report.js'
import { buildService, IRIS, startService } from '../../support/build.js'
import { AS_ADMIN, adminOf, KEY_STORES, keysFile } from '../../support/keys.js'
import { limitsFile, rowsOf, sha256, v2RowsOf } from '../../support/limits-file.js'
import { until } from '../../support/redis-fleet.js'

const LIMITS = {
  anonymous: 'free',
  plans: { free: { policies: [{ name: 'requests', limit: 6, window: '1 minute' }] } },
  keys: [{ sha256: sha256('of the file'), plan: 'free' }],
}
const withKey = (key: string, more = {}) => ({ headers: { 'x-api-key': key }, ...more })

for (const { name, settings } of KEY_STORES) {
  const open = async (t: Test) => {
    const given = { ...settings(t), LIMITS_FILE: limitsFile(t, LIMITS).path }
    const service = await buildService(t, given)
    const usage = async (key: string, query = '') =>
      (await service.ask({ url: `/v1/usage${query}`, ...withKey(key) })).json()
    return { ...service, ...adminOf(service.ask), usage, given }
  }

  t.test(`each answered request is counted once, for its key, model and hour, ${name}`, async t => {
    const { predict, ask, create, usage, admin } = await open(t)
    const { key, id } = await create({ owner: 'acme', plan: 'free' })
    t.equal((await predict(rowsOf(4), withKey(key))).statusCode, 200)
    const v2 = { method: 'POST', url: '/v2/models/iris/infer', payload: v2RowsOf(3), ...withKey(key) } as const
    t.equal((await ask(v2)).statusCode, 200)
    t.equal((await predict({ model: 'digits', features: new Array(64).fill(0) }, withKey(key))).statusCode, 200)
    t.equal((await predict({ model: 'iris', features: [1] }, withKey(key))).statusCode, 400)
    t.equal(
      (await predict('{', withKey(key, { headers: { 'x-api-key': key, 'content-type': 'application/json' } })))
        .statusCode,
      400,
    )
    t.equal((await predict({ model: 'none', features: [1] }, withKey(key))).statusCode, 404)
    t.equal((await predict(IRIS, withKey(key))).statusCode, 429)
    t.equal((await ask(v2)).statusCode, 429)
    await predict(IRIS)
    await predict(IRIS, withKey('of the file'))
    await predict(IRIS, withKey('wrong'))

    const told = await usage(key)
    t.match(told, { from: /T\d\d:00:00.000Z$/, to: /T\d\d:00:00.000Z$/ })
    t.match(told.rows, [
      { model: 'digits', requests: 1, rows: 1, refused: {} },
      { model: 'iris', requests: 2, rows: 7, refused: { INFERENCE_INVALID_INPUT: 1, ML_RATE_QUOTA_EXCEEDED: 1 } },
      {
        ...{ model: null, requests: 0, rows: 0, computeMs: 0 },
        refused: { INFERENCE_UNKNOWN_MODEL: 1, INVALID_JSON: 1, ML_RATE_QUOTA_EXCEEDED: 1 },
      },
    ])
    t.ok(told.rows[1].computeMs > 0)
    t.equal(told.rows.length, 3)
    t.match((await usage(key, '?by=day')).rows, [{ day: new Date().toISOString().slice(0, 10), requests: 3, rows: 8 }])
    t.match((await usage(key, '?by=hour')).rows, [{ hour: /T\d\d:00:00.000Z$/, requests: 3 }])
    t.match((await usage('of the file')).rows, [{ model: 'iris', requests: 1 }])

    const byKey = (await admin('GET', 'usage')).json().rows
    t.match(byKey, [
      ...[{ key: id, owner: 'acme', requests: 3, rows: 8 }].filter(() => id < 'anonymous'),
      { key: 'anonymous', owner: null, requests: 1 },
      ...[{ key: id, owner: 'acme', requests: 3, rows: 8 }].filter(() => id > 'anonymous' && id < 'sha256:'),
      { key: `sha256:${sha256('of the file').slice(0, 16)}`, requests: 1 },
      ...[{ key: id, owner: 'acme', requests: 3, rows: 8 }].filter(() => id > 'sha256:' && id < 'unknown'),
      { key: 'unknown', requests: 0, refused: { UNKNOWN_KEY: 1 } },
      ...[{ key: id, owner: 'acme', requests: 3, rows: 8 }].filter(() => id > 'unknown'),
    ])
    t.match((await admin('GET', 'usage?by=owner')).json().rows, [
      { owner: 'acme', requests: 3 },
      { owner: null, requests: 2 },
    ])
    const metrics = (await ask('/metrics')).payload
    const answered = [
      ...metrics.matchAll(/^http_requests_total\{route="\/v[^"]*(?:predict|infer)",method="POST".*\} (\d+)$/gm),
    ]
    const counted = byKey.flatMap(({ requests, refused }: { requests: number; refused: Record<string, number> }) => [
      requests,
      ...Object.values(refused),
    ])
    t.equal(sum(counted), sum(answered.map(([, count]) => Number(count))), 'the sums agree with the metrics')
  })

  t.test(`a stream is one request with its rows, and one that breaks off counts what it answered, ${name}`, async t => {
    const { app, create, usage } = await open(t)
    const { key } = await create({ owner: 'acme', plan: 'free' })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const answered = async (rows: string) => {
      const headers = { 'x-api-key': key, 'content-type': 'text/csv' }
      const body = `sepal_length,sepal_width,petal_length,petal_width\n${rows}`
      const answer = await fetch(`${url}/v1/models/iris/predict`, { method: 'POST', headers, body })
      return (await answer.text()).split('\n').filter(line => line.includes('"label"')).length
    }
    t.equal(await answered('5,3,1,0\n'.repeat(600)), 600)
    t.equal(await answered(`${'5,3,1,0\n'.repeat(300)}5,3,one,0\n`), 300)
    t.equal(await answered('5,3,one,0\n'), 0)
    t.match((await usage(key)).rows, [
      { model: 'iris', requests: 1, rows: 900, refused: { INFERENCE_INVALID_INPUT: 2 } },
    ])
  })

  t.test(`a stream whose connection ends in between counts what it answered, ${name}`, async t => {
    const { app, ask, create, usage } = await open(t)
    const { key } = await create({ owner: 'acme', plan: 'free' })
    const url = await app.listen({ port: 0, host: '127.0.0.1' })
    const send = (headers: Record<string, string>, body: NonNullable<RequestInit['body']>) => {
      const given = { 'x-api-key': key, 'content-type': 'text/csv', ...headers }
      const init = { method: 'POST', headers: given, body, duplex: 'half' } as RequestInit
      return fetch(`${url}/v1/models/iris/predict`, init)
    }
    const header = 'sepal_length,sepal_width,petal_length,petal_width\n'
    const cut = await send({ accept: 'text/csv' }, `${header}${'5,3,1,0\n'.repeat(300)}5,3,one,0\n`)
    await t.rejects(cut.text(), 'a table has no other way to say that it is not whole')
    await until('the cut stream is counted', async () => (await usage(key)).rows.length > 0)
    t.match((await usage(key)).rows, [{ requests: 0, rows: 300, refused: { INFERENCE_INVALID_INPUT: 1 } }])

    const endless = new ReadableStream({
      start: control => control.enqueue(Buffer.from(`${header}5,3,1,0\n5,3,1,0\n`)),
    })
    const left = await send({}, endless)
    await left.body?.cancel()
    await until('the stream that was left is counted', async () => (await usage(key)).rows[0].requests > 0)
    t.match((await usage(key)).rows, [{ requests: 1, rows: 302, refused: { INFERENCE_INVALID_INPUT: 1 } }])
    const metrics = (await ask('/metrics')).payload
    t.match(metrics, /^http_requests_total\{route="\/v1\/models\/:name\/predict",method="POST",status="2xx"\} 1$/m)
  })

  t.test(`usage is told as CSV, and from and to are hours, ${name}`, async t => {
    const { predict, ask, create, usage, admin } = await open(t)
    const { key } = await create({ owner: '=cmd, "quoted"', plan: 'free' })
    await predict(rowsOf(2), withKey(key))
    await predict({ model: 'iris', features: [] }, withKey(key))
    const csv = await ask({ url: '/v1/usage?format=csv', ...withKey(key) })
    t.equal(csv.headers['content-type'], 'text/csv; charset=utf-8')
    t.match(csv.body, /^model,requests,rows,computeMs,refused\.INFERENCE_INVALID_INPUT\r\niris,1,2,[\d.]+,1\r\n$/)
    const accepted = await admin('GET', 'usage?by=owner', undefined, { ...AS_ADMIN, accept: 'text/csv' })
    t.match(accepted.body, /\r\n"'=cmd, ""quoted""",1,2,/, 'no formula, and quoted')
    const json = await admin('GET', 'usage?format=json', undefined, { ...AS_ADMIN, accept: 'text/csv' })
    t.match(json.headers['content-type'], /json/, 'what the URL says goes first')
    const day = new Date().toISOString().slice(0, 10)
    t.equal((await usage(key, `?from=${day}&to=${day}`)).rows.length, 1, 'a day is whole')
    t.equal((await usage(key, '?from=2001-01-01&to=2001-01-02')).rows.length, 0)
    for (const wrong of [
      'from=soon',
      'to=2030-02-30',
      `from=${day}&to=2001-01-01`,
      'by=colour',
      'since=1',
      'by=owner',
    ]) {
      const refused = await ask({ url: `/v1/usage?${wrong}`, ...withKey(key) })
      t.match(refused.json(), { status: 400, code: 'INVALID_REQUEST', errors: [{}] }, wrong)
    }
  })

  t.test(`nobody sees what others used, ${name}`, async t => {
    const { predict, ask, create, usage, admin } = await open(t)
    const [one, two] = [await create({ owner: 'a', plan: 'free' }), await create({ owner: 'a', plan: 'free' })]
    await predict(IRIS, withKey(one.key))
    t.strictSame((await usage(two.key)).rows, [])
    t.match((await ask('/v1/usage')).json(), { status: 401, code: 'KEY_REQUIRED' })
    t.match((await ask({ url: '/v1/usage', ...withKey('wrong') })).json(), { status: 401, code: 'UNKNOWN_KEY' })
    t.equal((await ask({ url: '/v1/admin/usage', ...withKey(one.key) })).statusCode, 401)
    t.equal((await admin('GET', 'usage')).statusCode, 200)
  })

  t.test(`requests of a key whose plan is gone are those of its holder, ${name}`, async t => {
    const file = limitsFile(t, { ...LIMITS, plans: { ...LIMITS.plans, pro: LIMITS.plans.free } })
    const { predict, limits, ask } = await buildService(t, { ...settings(t), LIMITS_FILE: file.path })
    const { admin, create } = adminOf(ask)
    const { id, key } = await create({ owner: 'acme', plan: 'pro' })
    t.equal((await predict(IRIS, withKey(key))).statusCode, 200)
    file.write(LIMITS)
    limits.reload()
    t.match((await predict(IRIS, withKey(key))).json(), { status: 403, code: 'UNKNOWN_PLAN' })
    const { rows } = (await admin('GET', 'usage')).json()
    t.match(rows, [{ key: id, owner: 'acme', requests: 1, refused: { UNKNOWN_PLAN: 1 } }])
  })

  t.test(`two replicas add up, and a stop loses nothing, ${name}`, async t => {
    const one = await open(t)
    const two = await buildService(t, { ...one.given, USAGE_FLUSH_MS: 3_600_000 })
    const { key } = await one.create({ owner: 'a', plan: 'free' })
    await one.predict(IRIS, withKey(key))
    await until('the other knows it', async () => (await two.predict(rowsOf(2), withKey(key))).statusCode === 200)
    await two.predict(IRIS, withKey(key))
    await two.app.close()
    t.match((await one.usage(key)).rows, [{ model: 'iris', requests: 3, rows: 4 }])
  })
}

const sum = (numbers: readonly number[]) => numbers.reduce((total, each) => total + each, 0)

const entry = (requests: number, more = {}) => ({
  ...{ hour: 500_000, key: 'k', owner: null, model: 'm', requests, rows: requests, computeUs: 10, refused: {} },
  ...more,
})

t.test('a batch that is sent again counts once, by replica and number', async t => {
  const path = keysFile(t)
  const store = new FileUsageStore(path, 3660 * 10)
  const batch: UsageBatch = { replica: 'a', sequence: 1, entries: [entry(2), entry(3, { hour: 500_030 })] }
  await store.add(batch)
  await store.add(batch)
  await store.add({ ...batch, replica: 'b' })
  const again = new FileUsageStore(path, 3660 * 10)
  await again.add(batch)
  await again.add({ ...batch, sequence: 2 })
  const read = await again.read(500_000, 500_100, undefined)
  t.equal(sum(read.map(({ requests }) => requests)), 15)
})

t.test('a store that is away loses nothing: what was counted is sent when it is back, once', async t => {
  const added = new UsageSum()
  const seen = new Set<number>()
  let isAway = true
  const store = {
    add: async ({ sequence, entries }: UsageBatch) => {
      // It took the batch, and its answer was lost.
      if (!seen.has(sequence) && !isAway) for (const each of entries) added.add(each)
      if (!isAway) seen.add(sequence)
      if (isAway || Math.random() < 0.5) throw new Error('away')
    },
    read: async () => [],
  }
  const meter = new UsageMeter(store, 3_600_000, { error: () => {}, info: () => {} })
  const holder = { key: 'k', owner: 'o' }
  for (let count = 0; count < 100; count++) {
    meter.served(holder, 'm', 2)
    meter.refused(holder, null, 'CODE')
    meter.computed(holder, 'm', 0.5)
    if (count === 60) isAway = false
    await meter.flush().catch(() => {})
  }
  await meter.close()
  const total = reportOf(added.entries, 'key', 0, 1)
  t.match(total.rows, [{ requests: 100, rows: 200, computeMs: 50, refused: { CODE: 100 } }])
  t.match(csvOf(total, 'key'), /^key,owner,requests,rows,computeMs,refused\.CODE\r\nk,o,100,200,50,100\r\n$/)
})

t.test('a killed process loses what it used since the last flush, and no more', async t => {
  const settings = { KEYS_STORE: keysFile(t), LIMITS_FILE: limitsFile(t, LIMITS).path, USAGE_FLUSH_MS: 200 }
  const first = await startService(t, settings)
  t.equal((await first.predict(IRIS, withKey('of the file'))).status, 200)
  const written = new FileUsageStore(settings.KEYS_STORE.replace(/jsonl$/, 'usage'), 2)
  const now = hourOf(Date.now())
  await until('it is flushed', async () =>
    (await written.read(now - 1, now + 2, undefined)).some(({ requests }) => requests === 1),
  )
  first.child.kill('SIGKILL')
  await first.ended
  const second = await startService(t, settings)
  const told = async (url: string) =>
    (await (await fetch(`${url}/v1/usage`, withKey('of the file'))).json()) as { rows: object[] }
  t.match((await told(second.url)).rows, [{ model: 'iris', requests: 1 }])
  t.equal((await second.predict(IRIS, withKey('of the file'))).status, 200)
  second.child.kill('SIGTERM')
  await second.ended
  const third = await startService(t, settings)
  t.match((await told(third.url)).rows, [{ model: 'iris', requests: 2 }], 'a stop loses nothing')
})
