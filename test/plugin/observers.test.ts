import { randomUUID } from 'node:crypto'
import Fastify from 'fastify'
import type { StoreEvent } from 'ml-api-rate-limiter'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import { startRedis, until } from '../support/redis-fleet.js'

t.test('onDecision hears of every decision, onStoreEvent of every question to Redis and of its loss', async t => {
  const server = await startRedis(t)
  const app = Fastify()
  t.teardown(() => app.close())
  const decisions: boolean[] = []
  const events: StoreEvent[] = []
  const count = (type: StoreEvent['type']) => events.filter(event => event.type === type).length
  await app.register(rateLimit, {
    max: 2,
    redis: server.client(),
    nameSpace: `observers:${randomUUID()}:`,
    storeTimeout: 3000,
    onStoreError: 'allow',
    onDecision: (_request, { allowed }) => decisions.push(allowed),
    onStoreEvent: event => events.push(event),
  })
  app.get('/', async () => 'ok')
  for (let i = 0; i < 4; i++) await app.inject('/')
  t.strictSame(decisions, [true, true, false, false])
  // The first denial is remembered here, for a second at most: Redis need not be asked about the next.
  t.ok(count('answered') >= 3 && count('answered') <= 4)
  t.equal(count('failed'), 0)

  await server.kill()
  await until('the store is given up', async () => {
    await Promise.all(Array.from({ length: 5 }, () => app.inject('/')))
    return count('lost') === 1
  })
  t.ok(count('failed') >= 5)
  t.ok(events.every(event => event.type === 'lost' || event.type === 'back' || event.ms >= 0))
})
