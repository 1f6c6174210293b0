import { setTimeout as delay } from 'node:timers/promises'
import t from 'tap'
import { IRIS, STORES, startService } from '../../support/build.js'

const QUOTA = 10
const WINDOW_MS = 2000

for (const { name, settings } of STORES) {
  t.test(`nine polite clients are answered while a tenth sends fifty times its quota, ${name}`, async t => {
    const service = await startService(t, {
      ...settings(),
      RATE_LIMIT_MAX: QUOTA,
      RATE_LIMIT_WINDOW: WINDOW_MS,
      TRUST_PROXY: '127.0.0.1',
    })
    const ask = async (address: string) => {
      const answer = await service.predict(IRIS, { headers: { 'x-forwarded-for': address } })
      await answer.arrayBuffer()
      return answer.status
    }
    let over = false
    const greedy: number[] = []
    const lanes = Array.from({ length: 5 }, async () => {
      // Five lanes that each send a hundred requests in a window.
      for (let due = performance.now(); !over; due += WINDOW_MS / 100) {
        await delay(Math.max(0, due - performance.now()))
        greedy.push(await ask('203.0.113.66'))
      }
    })
    const polite = await Promise.all(
      Array.from({ length: 9 }, async (_, index) => {
        const statuses: number[] = []
        for (let sent = 0; sent < QUOTA / 2 + 2; sent++) {
          statuses.push(await ask(`203.0.113.${index + 1}`))
          // Between an answer and the next request, so that a stall cannot bring them closer together.
          await delay(WINDOW_MS / (QUOTA / 2))
        }
        return statuses
      }),
    )
    over = true
    await Promise.all(lanes)
    for (const statuses of polite) t.strictSame(new Set(statuses), new Set([200]))
    t.strictSame(new Set(greedy), new Set([200, 429]), 'the greedy one gets its quota, and refusals')
    t.ok(greedy.filter(status => status === 200).length >= QUOTA)
  })
}
