/**
 * What was used, as the store has it, as the metrics have it and as clients saw it: under load, while the Redis of the keys
 * is killed and frozen, and while replicas are stopped and started.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { type RunningService, startService } from '../support/build.js'
import { type ApiKeyView, AS_ADMIN, TOKEN } from '../support/keys.js'
import { limitsFile, rowsOf } from '../support/limits-file.js'
import { freePort, startRedis, until } from '../support/redis-fleet.js'

const skip = process.env.REDIS_SERVER_BIN === undefined ? 'there is no Redis program here to start' : false
const LIMITS = {
  anonymous: 'free',
  plans: {
    free: { policies: [{ name: 'requests', limit: 40, window: '2 seconds' }] },
    pro: {
      policies: [
        { name: 'requests', limit: 5000, window: '1 minute' },
        { name: 'rows', unit: 'rows', limit: 300, window: '1 second' },
      ],
    },
  },
}
const CLIENTS = 16

interface Counts {
  requests: number
  rows: number
  refused: Record<string, number>
}

/** What clients saw, by the name of the key in the report. */
class Seen {
  readonly byKey = new Map<string, Counts>()
  /** Requests without a whole answer: they may count or not. */
  unclear = 0

  of(key: string): Counts {
    const counts = this.byKey.get(key) ?? { requests: 0, rows: 0, refused: {} }
    this.byKey.set(key, counts)
    return counts
  }
}

const BODIES: readonly (readonly [rows: number, body: string])[] = [
  ...[1, 2, 7, 30].map(rows => [rows, JSON.stringify(rowsOf(rows))] as const),
  [0, JSON.stringify({ model: 'iris', features: [1] })],
  [0, JSON.stringify({ model: 'none', features: [1] })],
  [0, '{'],
]

const pick = <T>(list: readonly T[]): T => list[Math.floor(Math.random() * list.length)] as T
const sum = (numbers: readonly number[]) => numbers.reduce((total, each) => total + each, 0)

/** Asks for predictions until it is told to stop. `replicas`: those that take requests now. */
async function use(
  replicas: ReadonlySet<RunningService>,
  keys: readonly ApiKeyView[],
  seen: Seen,
  isOver: () => boolean,
) {
  const own = keys.map(({ id, key }) => [id, key] as const)
  const names = [...own, ...own, ['anonymous', undefined], ['unknown', 'wrong']] as const
  while (!isOver()) {
    const replica = pick([...replicas])
    const [rows, body] = pick(BODIES)
    const [name, text] = pick(names)
    try {
      const answer = await fetch(`${replica.url}/v1/predict`, {
        ...{ method: 'POST', body, signal: AbortSignal.timeout(10_000) },
        headers: { 'content-type': 'application/json', ...(text === undefined ? {} : { 'x-api-key': text }) },
      })
      const told = (await answer.json()) as { code?: string }
      const counts = seen.of(name)
      if (answer.status === 200) {
        counts.requests++
        counts.rows += rows
      } else {
        const { code = 'none' } = told
        counts.refused[code] = (counts.refused[code] ?? 0) + 1
      }
    } catch {
      seen.unclear++
    }
    if (Math.random() < 0.2) await delay(5)
  }
}

/** Answers of the limited routes, as a replica counts them. */
async function answeredBy({ url }: RunningService): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text()
  const lines = text.matchAll(/^http_requests_total\{route="\/v[^"]*(?:predict|infer)",method="POST".*\} (\d+)$/gm)
  return sum([...lines].map(([, count]) => Number(count)))
}

t.setTimeout(0)
t.test('the sums of usage are those of the metrics and of what clients saw', { skip }, async t => {
  const folder = mkdtempSync(join(tmpdir(), 'used-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const port = await freePort()
  const args = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction', '--dir', folder]
  const launch = () => startRedis(t, { port, args })
  let redis = await launch()
  const limits = await startRedis(t)
  const settings = {
    ...{ KEYS_STORE: `redis://127.0.0.1:${port}`, REDIS_URL: `redis://127.0.0.1:${limits.port}`, ADMIN_TOKEN: TOKEN },
    ...{ LIMITS_FILE: limitsFile(t, LIMITS).path, USAGE_FLUSH_MS: 200, STORE_TIMEOUT_MS: 2000 },
  }
  let [one, two] = await Promise.all([startService(t, settings), startService(t, settings)])
  const keys: ApiKeyView[] = []
  for (const [owner, plan] of [
    ['a', 'pro'],
    ['a', 'free'],
    ['b', 'pro'],
  ]) {
    const headers = { ...AS_ADMIN, 'content-type': 'application/json' }
    const answer = await fetch(`${one.url}/v1/admin/keys`, {
      ...{ method: 'POST', headers, body: JSON.stringify({ owner, plan }) },
    })
    keys.push((await answer.json()) as ApiKeyView)
  }
  await until('both know all keys', async () => {
    const known = await Promise.all(
      keys.map(({ key }) => fetch(`${two.url}/v1/limits`, { headers: { 'x-api-key': key } })),
    )
    return known.every(({ status }) => status === 200)
  })

  const seen = new Seen()
  const replicas = new Set([one, two])
  let isOver = false
  let answered = 0
  const clients = Array.from({ length: CLIENTS }, () => use(replicas, keys, seen, () => isOver))
  /** Stops a replica that nobody asks any more, and starts another in its place. */
  const replace = async (replica: RunningService) => {
    replicas.delete(replica)
    let before = -1
    // Nobody asks it any more once its count stands still.
    await until('it is idle', async () => {
      const now = await answeredBy(replica)
      const stands = now === before
      before = now
      await delay(stands ? 0 : 500)
      return stands
    })
    answered += await answeredBy(replica)
    replica.child.kill('SIGTERM')
    t.equal((await replica.ended).code, 0)
    const next = await startService(t, settings)
    replicas.add(next)
    return next
  }
  await delay(1500)
  await redis.kill()
  await delay(1500)
  redis = await launch()
  one = await replace(one)
  redis.signal('SIGSTOP')
  await delay(4000)
  redis.signal('SIGCONT')
  two = await replace(two)
  await redis.kill()
  redis = await launch()
  await delay(1500)
  isOver = true
  await Promise.all(clients)
  answered += (await answeredBy(one)) + (await answeredBy(two))

  let rows: (Counts & { key: string })[] = []
  const total = () => sum(rows.flatMap(({ requests, refused }) => [requests, ...Object.values(refused)]))
  await until('all is in the store', async () => {
    // Whoever is asked flushes first.
    for (const { url } of [one, two]) {
      const report = await fetch(`${url}/v1/admin/usage`, { headers: AS_ADMIN })
      rows = ((await report.json()) as { rows: typeof rows }).rows
    }
    return total() === answered
  }).catch(() => {})
  const byClients = sum(
    [...seen.byKey.values()].flatMap(({ requests, refused }) => [requests, ...Object.values(refused)]),
  )
  t.comment(`${byClients} answers seen, ${seen.unclear} unclear, ${answered} by the metrics, ${total()} in the store`)
  t.equal(total(), answered, 'as the metrics have it')
  for (const [key, counts] of seen.byKey) {
    const row = rows.find(each => each.key === key)
    if (seen.unclear === 0) {
      t.match(row, { requests: counts.requests, rows: counts.rows }, key)
      t.strictSame(row?.refused, Object.fromEntries(Object.entries(counts.refused).sort()), key)
    } else {
      const more = (row?.requests ?? 0) - counts.requests
      t.ok(more >= 0 && more <= seen.unclear, `${key}: ${row?.requests} of ${counts.requests}`)
      for (const [code, count] of Object.entries(counts.refused)) {
        const beyond = (row?.refused[code] ?? 0) - count
        t.ok(beyond >= 0 && beyond <= seen.unclear, `${key}, ${code}: ${row?.refused[code]} of ${count}`)
      }
    }
  }
  t.ok(byClients > 1000, 'under load')
})
