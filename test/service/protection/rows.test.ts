import fc from 'fast-check'
import t from 'tap'
import { inRedis, startService } from '../../support/build.js'
import { onePlan, rowsOf, v2RowsOf } from '../../support/limits-file.js'

const LIMIT = 1000
const WINDOW_MS = 60_000

interface Admitted {
  readonly rows: number
  readonly sentAt: number
  readonly answeredAt: number
}

/** The most rows that were surely admitted within one window, wherever it starts. */
function mostInWindow(admitted: readonly Admitted[]): number {
  const from = ({ sentAt }: Admitted) =>
    admitted
      .filter(other => other.sentAt >= sentAt && other.answeredAt <= sentAt + WINDOW_MS)
      .reduce((sum, { rows }) => sum + rows, 0)
  return Math.max(0, ...admitted.map(from))
}

const mix = fc.array(
  fc.record({
    rows: fc.oneof(fc.integer({ min: 1, max: LIMIT }), fc.integer({ min: 1, max: 40 }), fc.constantFrom(1, 999, LIMIT)),
    replica: fc.nat({ max: 1 }),
    protocol: fc.constantFrom('v1', 'v2'),
  }),
  { minLength: 1, maxLength: 30 },
)

t.test('1,000 rows a minute are 1,000 over two replicas, whatever the sizes of the batches', async t => {
  const settings = {
    ...inRedis(),
    LIMITS_FILE: onePlan(t, [
      { name: 'requests', limit: 100_000, window: '1 minute' },
      { name: 'rows', unit: 'rows', limit: LIMIT, window: WINDOW_MS },
    ]),
    TRUST_PROXY: '127.0.0.1',
    REQUEST_TIMEOUT_MS: 60_000,
  }
  const replicas = await Promise.all([startService(t, settings), startService(t, settings)])
  let clients = 0

  const property = fc.asyncProperty(mix, async requests => {
    // Each mix is sent by a client of its own, with a whole quota.
    clients++
    const address = `10.0.${clients >> 8}.${clients & 255}`
    const admitted: Admitted[] = []
    const send = async ({ rows, replica, protocol }: (typeof requests)[number]): Promise<boolean> => {
      const isV1 = protocol === 'v1'
      const sentAt = performance.now()
      const answer = await fetch(`${replicas[replica]?.url}${isV1 ? '/v1/predict' : '/v2/models/iris/infer'}`, {
        method: 'POST',
        headers: { 'content-type': 'application/json', 'x-forwarded-for': address },
        body: JSON.stringify(isV1 ? rowsOf(rows) : v2RowsOf(rows)),
      })
      const text = await answer.text()
      if (answer.status === 200) admitted.push({ rows, sentAt, answeredAt: performance.now() })
      else if (answer.status !== 429) throw new Error(`${answer.status}: ${text}`)
      return answer.status === 200
    }
    await Promise.all(requests.map(send))
    // What is left is asked for to the last row.
    for (let rows = 512, turn = 0; rows >= 1; rows /= 2) {
      while (await send({ rows, replica: turn++ % 2, protocol: 'v1' }));
    }
    const all = admitted.reduce((sum, { rows }) => sum + rows, 0)
    if (all < LIMIT) throw new Error(`only ${all} rows could be had`)
    const most = mostInWindow(admitted)
    if (most > LIMIT) throw new Error(`${most} rows in one minute`)
  })
  await fc.assert(property, { numRuns: 12, endOnFailure: true })
  t.ok(clients >= 12)
})
