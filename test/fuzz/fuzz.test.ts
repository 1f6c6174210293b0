/**
 * Generated and mutated requests to every route of the service, as it runs: answered, charged once, and told nothing.
 * FUZZ_REQUESTS says how many, FUZZ_SEED from which seed; `npm run fuzz` sends 100,000 of a seed of its own.
 */
import { createHash } from 'node:crypto'
import { cpSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { Redis } from 'ioredis'
import t, { type Test } from 'tap'
import { buildService, inRedis, startService } from '../support/build.js'
import { ElementType } from '../support/onnx-builder.js'
import { writeModels } from '../support/onnx-folder.js'
import { anyRank, flattens, identity, rowSums, twoInputs } from '../support/onnx-models.js'
import { isCharged, POLICY, wrongWithExchange } from './answers.js'
import { CANARY, damaged, type FuzzConnection, piecesOf, URLS, whole } from './requests.js'
import { exchange } from './wire.js'

/** Whether it is `npm run fuzz`. */
const isLong = process.env.FUZZ_REQUESTS !== undefined
const REQUESTS = Number(process.env.FUZZ_REQUESTS ?? 2500)
const SEED = Number(process.env.FUZZ_SEED ?? 20261124)
const MINUTES = Number(process.env.FUZZ_MINUTES ?? 10)
/** Connections at a time: some wait for the service to lose its patience with them. */
const LANES = isLong ? 64 : 24

t.setTimeout((2 * MINUTES + 2) * 60_000)

const LIMIT = 1_000_000_000
const RIGHT_KEY = `${CANARY}-right`

/** The service with limits that are never reached, so that they can be read as a count. */
async function start(t: Test, settings: Readonly<Record<string, string>> = {}) {
  const models = t.testdir()
  cpSync(new URL('../../models/iris', import.meta.url), join(models, 'iris'), { recursive: true })
  // Shapes that bodies have a say in.
  writeModels(models, {
    'tokens/1/model.onnx': identity(ElementType.INT64, ['batch', 'length']),
    'image/1/model.onnx': identity(ElementType.FLOAT, ['batch', 'height', 'width']),
    'words/1/model.onnx': identity(ElementType.STRING, ['batch', 'length']),
    'any/1/model.onnx': anyRank(),
    'empty/1/model.onnx': identity(ElementType.FLOAT, [0, 3]),
    'pair/1/model.onnx': twoInputs(),
    'sums/1/model.onnx': rowSums(),
    'flat/1/model.onnx': flattens(),
  })
  const policies = [{ name: POLICY, limit: LIMIT, window: '1d' }]
  const limits = {
    anonymous: 'open',
    plans: { open: { policies }, keyed: { policies } },
    keys: [{ sha256: createHash('sha256').update(RIGHT_KEY).digest('hex'), plan: 'keyed' }],
  }
  const file = join(models, 'limits.json')
  writeFileSync(file, JSON.stringify(limits))
  const store = inRedis()
  const service = await startService(t, {
    ...store,
    LIMITS_FILE: file,
    ADMIN_TOKEN: `${CANARY}-admin`,
    BEARER_KEYS: 'on',
    REQUEST_TIMEOUT_MS: 60_000,
    MODELS_DIR: models,
    DEFAULT_MODEL: 'iris',
    ...settings,
  })
  return { ...service, port: Number(new URL(service.url).port), nameSpace: store.REDIS_NAMESPACE as string }
}

interface Told {
  requests: number
  answers: number
  charged: number
  readonly statuses: Map<number, number>
}

/** Connections of one lane between two looks at the clock. */
const ROUND = 5

/** Sends connections of the kind until there were `requests`, on several lanes; fails at the first that is not well. */
async function fuzz(port: number, kind: fc.Arbitrary<FuzzConnection>, requests: number, seed: number): Promise<Told> {
  const told: Told = { requests: 0, answers: 0, charged: 0, statuses: new Map() }
  const until = performance.now() + MINUTES * 60_000
  const property = fc.asyncProperty(kind, async connection => {
    const exchanged = await exchange(port, piecesOf(connection))
    told.requests += connection.requests.length
    for (const answer of exchanged.answers) {
      told.answers++
      if (isCharged(answer)) told.charged++
      told.statuses.set(answer.status, (told.statuses.get(answer.status) ?? 0) + 1)
    }
    const wrong = wrongWithExchange(exchanged)
    if (wrong === undefined) return
    failed = true
    throw new Error(wrong)
  })
  let failed = false
  let shown = 0
  const lane = async (index: number) => {
    for (let round = 0; told.requests < requests && !failed; round++) {
      if (performance.now() > until) throw new Error(`${told.requests} requests took ${MINUTES} minutes`)
      await fc.assert(property, {
        seed: seed + index + round * LANES,
        numRuns: ROUND,
        endOnFailure: process.env.FUZZ_QUICK !== undefined,
      })
      if (!isLong || told.requests < shown) continue
      shown = told.requests + requests / 20
      process.stderr.write(`fuzz: ${told.requests} of ${requests} requests, ${told.answers} answers\n`)
    }
  }
  await Promise.all(Array.from({ length: LANES }, (_, index) => lane(index)))
  return told
}

const table = ({ requests, answers, charged, statuses }: Told) =>
  `${requests} requests, ${answers} answers, ${charged} charged; by status ${[...statuses]
    .sort(([one], [other]) => one - other)
    .map(([status, count]) => `${status}: ${count}`)
    .join(', ')}`

interface Footprint {
  readonly residentMiB: number
  readonly heapMiB: number
  readonly files: number
}

async function footprint(url: string): Promise<Footprint> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const value = (name: string) => Number(new RegExp(`^${name} (\\S+)$`, 'm').exec(text)?.[1])
  return {
    residentMiB: Math.round(value('process_resident_memory_bytes') / 2 ** 20),
    heapMiB: Math.round(value('nodejs_heap_size_used_bytes') / 2 ** 20),
    files: value('process_open_fds'),
  }
}

async function used(url: string): Promise<number> {
  const { policies } = (await (await fetch(`${url}/v1/limits`)).json()) as { policies: { remaining: number }[] }
  return LIMIT - (policies[0]?.remaining ?? Number.NaN)
}

/** Keys that the service has in Redis. */
async function keysOf(nameSpace: string): Promise<string[]> {
  const redis = new Redis(process.env.REDIS_URL as string)
  try {
    return await redis.keys(`${nameSpace}*`)
  } finally {
    redis.disconnect()
  }
}

/** That the service is as it was: it answers, logged no fault and no secret, and holds no more than before. */
async function isWell(
  t: Test,
  service: Awaited<ReturnType<typeof start>>,
  before: Footprint,
  most: number,
): Promise<void> {
  t.match(await (await fetch(`${service.url}/health/ready`)).json(), { status: 'ready', store: 'up' })
  t.equal((await service.predict()).status, 200, 'it predicts')
  const after = await footprint(service.url)
  t.comment(`before ${JSON.stringify(before)}, after ${JSON.stringify(after)}`)
  t.ok(after.residentMiB < before.residentMiB + 150, 'it holds no more memory than it did')
  t.ok(after.files <= before.files + 20, 'it holds no more connections and files than it did')
  const keys = await keysOf(service.nameSpace)
  t.ok(keys.length <= most, `${keys.length} keys in Redis`)
  t.notOk(
    keys.some(key => key.includes(CANARY)),
    'no secret is a key of Redis',
  )
  t.notMatch(service.output(), CANARY, 'no secret is in the log')
  t.notMatch(service.output(), /"level":(?:50|60)/, 'no fault is in the log')
}

t.test('the fuzzed URLs are all that the service has', async t => {
  const { app } = await buildService(t, { ADMIN_TOKEN: 'token' })
  const { routes } = (await app.inject('/nothing')).json() as { routes: string[] }
  for (const route of [...routes, 'POST /v1/admin/reload']) {
    const [, url = ''] = route.split(' ')
    // An endless answer: it has a test of its own.
    if (url === '/v1/events') continue
    const pattern = new RegExp(`^${url.replace(/:\w+/g, '[^/]+')}$`)
    t.ok(
      URLS.some(known => pattern.test(known)),
      route,
    )
  }
})

t.test(
  'requests of every kind, well-formed: each is answered, and charged once where it asks for a prediction',
  async t => {
    const service = await start(t)
    await service.predict()
    const before = await footprint(service.url)
    const told = await fuzz(service.port, whole, REQUESTS / 2, SEED)
    t.comment(`seed ${SEED}: ${table(told)}`)
    t.equal((await used(service.url)) - 1, told.charged, 'what was charged is what was told')
    t.ok((told.statuses.get(200) ?? 0) > told.requests / 20, 'many of them were good ones')
    await isWell(t, service, before, 8)
  },
)

t.test('the same with bytes changed, behind a trusted proxy', async t => {
  const service = await start(t, { TRUST_PROXY: '127.0.0.0/8' })
  await service.predict()
  const before = await footprint(service.url)
  const told = await fuzz(service.port, damaged, REQUESTS / 2, SEED + 1_000_000)
  t.comment(`seed ${SEED}: ${table(told)}`)
  // The proxy may vouch for as many addresses as it likes.
  await isWell(t, service, before, 2 * told.requests)
})
