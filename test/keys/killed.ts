/**
 * The service and the Redis of its keys, killed at random moments while keys change and are used: no key is lost that was
 * answered 201, none revived that was answered as revoked, and usage is short by what the flush interval and a second allow.
 */
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import type { Test } from 'tap'
import { IRIS, type RunningService, startService } from '../support/build.js'
import { AS_ADMIN, TOKEN } from '../support/keys.js'
import { limitsFile } from '../support/limits-file.js'
import { freePort, type RedisProcess, startRedis, until } from '../support/redis-fleet.js'

const LIMITS = {
  anonymous: 'free',
  plans: { free: { policies: [{ name: 'r', limit: 1_000_000, window: '1 minute' }] } },
}
const FLUSH_MS = 300

interface Made {
  readonly id: string
  readonly key: string
}

/** What was answered, and when it could last have been lost. */
class Ledger {
  readonly kept = new Map<string, Made>()
  readonly revoked: Made[] = []
  /** Whether an answer to a change of it is missing: it may be either. */
  readonly unclear = new Set<string>()
  /** Times at which predictions were answered 200. */
  readonly served: number[] = []
  /** Times of kills of the service. */
  readonly kills: number[] = []
}

async function admin(service: RunningService, method: string, path: string, body?: object): Promise<Response> {
  return fetch(`${service.url}/v1/admin/${path}`, {
    method,
    headers: { ...AS_ADMIN, ...(body === undefined ? {} : { 'content-type': 'application/json' }) },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    signal: AbortSignal.timeout(5000),
  })
}

/** Changes keys and uses one until it is told to stop; what is not answered is unclear. */
async function trouble(service: RunningService, used: Made, ledger: Ledger, isOver: () => boolean): Promise<void> {
  const changes = async () => {
    while (!isOver()) {
      const victim =
        Math.random() < 0.4 ? [...ledger.kept.values()].find(({ id }) => !ledger.unclear.has(id)) : undefined
      try {
        if (victim === undefined) {
          const answer = await admin(service, 'POST', 'keys', { owner: 'o', plan: 'free' })
          if (answer.status === 201) {
            const made = (await answer.json()) as Made
            ledger.kept.set(made.id, made)
          }
        } else {
          ledger.unclear.add(victim.id)
          const answer = await admin(service, 'DELETE', `keys/${victim.id}`)
          if (answer.status === 204) {
            ledger.kept.delete(victim.id)
            ledger.revoked.push(victim)
            ledger.unclear.delete(victim.id)
          }
        }
      } catch {
        await delay(20)
      }
    }
  }
  const use = async () => {
    while (!isOver()) {
      try {
        const answer = await service.predict(IRIS, {
          headers: { 'x-api-key': used.key },
          signal: AbortSignal.timeout(5000),
        })
        await answer.arrayBuffer()
        if (answer.status === 200) ledger.served.push(Date.now())
      } catch {
        await delay(20)
      }
    }
  }
  await Promise.all([changes(), changes(), use(), use()])
}

/** Tries it `rounds` times. `inRedis`: the keys are in a Redis, which is killed every other time. */
export async function killAgainAndAgain(t: Test, rounds: number, inRedis: boolean): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'killed-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true }))
  const port = await freePort()
  const args = ['--appendonly', 'yes', '--appendfsync', 'always', '--maxmemory-policy', 'noeviction', '--dir', folder]
  const launch = (): Promise<RedisProcess> => startRedis(t, { port, args })
  let redis = inRedis ? await launch() : undefined
  const settings = {
    KEYS_STORE: inRedis ? `redis://127.0.0.1:${port}` : join(folder, 'keys.jsonl'),
    ...{ ADMIN_TOKEN: TOKEN, LIMITS_FILE: limitsFile(t, LIMITS).path, USAGE_FLUSH_MS: FLUSH_MS },
  }
  const ledger = new Ledger()
  let service = await startService(t, settings)
  const used = (await (await admin(service, 'POST', 'keys', { owner: 'used', plan: 'free' })).json()) as Made
  for (let round = 0; round < rounds; round++) {
    let over = false
    const going = trouble(service, used, ledger, () => over)
    // In every fourth round some of what was used is older than what a kill may lose.
    await delay(round % 4 === 0 ? FLUSH_MS + 1500 + Math.random() * 1500 : 200 + Math.random() * 800)
    const killsRedis = redis !== undefined && round % 2 === 1
    if (killsRedis) await redis?.kill()
    else {
      ledger.kills.push(Date.now())
      service.child.kill('SIGKILL')
      await service.ended
    }
    over = true
    await going
    if (killsRedis) redis = await launch()
    else service = await startService(t, settings)
    await until('it is ready', async () => {
      const answer = await fetch(`${service.url}/health/ready`)
      return ((await answer.json()) as { status: string }).status === 'ready'
    })
    await compare(t, service, ledger, `round ${round + 1}`)
  }
  await delay(FLUSH_MS + 200)
  const answer = await fetch(`${service.url}/v1/usage`, { headers: { 'x-api-key': used.key } })
  const { rows } = (await answer.json()) as { rows: { model: string | null; requests: number }[] }
  const counted = rows.find(({ model }) => model === 'iris')?.requests ?? 0
  const answered = ledger.served.length
  const mayBeLost = ledger.served.filter(at =>
    ledger.kills.some(kill => at <= kill + 50 && at > kill - FLUSH_MS - 1000),
  ).length
  t.ok(mayBeLost < answered, 'some may not be lost')
  t.ok(counted >= answered - mayBeLost, `${counted} counted of ${answered}, of which ${mayBeLost} may be lost`)
  // One more for each that was under way when the process was killed, or whose answer was lost.
  t.ok(counted <= answered + 2 * rounds, `${counted} counted of ${answered}: none twice`)
}

async function compare(t: Test, service: RunningService, ledger: Ledger, round: string): Promise<void> {
  const known = new Set<string>()
  for (let cursor = ''; ; ) {
    const page = (await (await admin(service, 'GET', `keys?limit=1000${cursor}`)).json()) as {
      keys: Made[]
      next: string | null
    }
    for (const { id } of page.keys) known.add(id)
    if (page.next === null) break
    cursor = `&cursor=${page.next}`
  }
  for (const id of ledger.unclear) {
    // Its removal was not answered: what is the case now is the case from now on.
    const made = ledger.kept.get(id)
    if (made !== undefined && !known.has(id)) {
      ledger.kept.delete(id)
      ledger.revoked.push(made)
    }
  }
  ledger.unclear.clear()
  const lost = [...ledger.kept.keys()].filter(id => !known.has(id))
  const revived = ledger.revoked.filter(({ id }) => known.has(id))
  t.strictSame(lost, [], `${round}: no key is lost of ${ledger.kept.size}`)
  t.strictSame(revived, [], `${round}: none is revived of ${ledger.revoked.length}`)
  const status = async ({ key }: Made) =>
    (await fetch(`${service.url}/v1/limits`, { headers: { 'x-api-key': key } })).status
  const [some] = [...ledger.kept.values()].slice(-1)
  if (some !== undefined) t.equal(await status(some), 200, `${round}: the last key that was made works`)
}
