/** Services that share their limits in a Redis, which each reaches in its own way. */
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { buildService, IRIS, startService } from './build.js'
import { until } from './redis-fleet.js'

export const NAMED = fileURLToPath(new URL('tls/named.pem', import.meta.url))

/** More than the slots of one node could hold. */
export const CLIENTS = Array.from({ length: 24 }, (_, index) => `203.0.113.${index + 1}`)

export type Ask = (address: string) => Promise<number>

const SETTINGS = { RATE_LIMIT_MAX: 1, RATE_LIMIT_WINDOW: '1h', STORE_TIMEOUT_MS: 5000, ON_STORE_ERROR: 'deny' }

export async function inProcess(t: Test, REDIS_URL: string) {
  const { ask, predict } = await buildService(t, { ...SETTINGS, REDIS_URL })
  const from: Ask = async remoteAddress => (await predict(IRIS, { remoteAddress })).statusCode
  const isUp = async () => (await ask('/health/ready')).json().store === 'up'
  return { from, isUp }
}

/** As its own process, which can be told what to trust. */
export async function trusting(t: Test, REDIS_URL: string) {
  const more = { TRUST_PROXY: '127.0.0.1', NODE_EXTRA_CA_CERTS: NAMED }
  const service = await startService(t, { ...SETTINGS, ...more, REDIS_URL })
  const from: Ask = async address => (await service.predict(IRIS, { headers: { 'x-forwarded-for': address } })).status
  const isUp = async () =>
    ((await (await fetch(`${service.url}/health/ready`)).json()) as { store: string }).store === 'up'
  return { from, isUp, output: service.output }
}

/** Resolves when a service has reached every node: on a busy machine a connection may take longer than it may. */
const reached = (from: Ask) =>
  until('every node was reached', async () => {
    const others = CLIENTS.map(address => address.replace('203.0.113', '192.0.2'))
    return !(await Promise.all(others.map(from))).includes(503)
  })

/** Two services that name the same Redis share the one of each client. */
export async function share(t: Test, one: Ask, other: Ask): Promise<void> {
  await Promise.all([one, other].map(reached))
  for (const [index, address] of CLIENTS.entries()) {
    const [first, second] = index % 2 === 0 ? [one, other] : [other, one]
    t.strictSame([await first(address), await second(address)], [200, 429], address)
  }
}
