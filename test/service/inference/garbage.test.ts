import { getHeapSpaceStatistics, setFlagsFromString } from 'node:v8'
import { runInNewContext } from 'node:vm'
import t from 'tap'
import type { Batch } from '../../../service/src/inference/queue/batch.js'
import { Batcher } from '../../../service/src/inference/queue/batcher.js'
import { tensorOf } from '../../../service/src/inference/tensors/tensor.js'
import { Host } from '../../../service/src/inference/workers/host.js'
import type { FromWorker } from '../../../service/src/inference/workers/worker-messages.js'

setFlagsFromString('--expose-gc')
const collect = runInNewContext('gc') as (options?: { type: 'minor' }) => void

const ROUNDS = 3000
const VALUES = 4000
/** Bytes on the heap, most of what a round leaves behind. */
const ballast = () => Array.from({ length: VALUES }, (_, index) => index + 0.5)

const oldBytes = () =>
  getHeapSpaceStatistics().find(({ space_name }) => space_name === 'old_space')?.space_used_size ?? 0

/** Bytes that small collections leave of many rounds, after a full one has made old what was under way. */
async function leftOf(round: () => Promise<void>): Promise<number> {
  for (let i = 0; i < 100; i++) await round()
  collect()
  const before = oldBytes()
  for (let i = 0; i < ROUNDS; i++) await round()
  collect({ type: 'minor' })
  collect({ type: 'minor' })
  return oldBytes() - before
}

const few = (ROUNDS * VALUES * 8) / 10

t.test('requests that were answered are garbage at once, also after a full collection', async t => {
  const batcher = new Batcher({ mode: 'shared', maxRows: 1, maxDelayMs: 0, shapesVary: false })
  const start = (): Batch => {
    const options = { rows: 1, ballast: ballast() }
    batcher.submit({ x: tensorOf('FP32', [1, 1], [1]) }, options, 0).catch(() => {})
    return batcher.take(0) as Batch
  }
  // One more always runs, so that nothing ever starts anew.
  let running = start()
  const left = await leftOf(async () => {
    const next = start()
    batcher.succeed(running, { y: tensorOf('FP32', [1, 1], [2]) }, 1, 1)
    running = next
  })
  t.ok(left < few, `${left} bytes are left`)
})

t.test('so are the answers of a worker', async t => {
  let tell: (message: FromWorker) => void = () => {}
  const host = new Host({
    pid: undefined,
    connected: true,
    post: () => {},
    onMessage: listener => {
      tell = listener
    },
    takeMessages: () => {},
    onExit: () => {},
    kill: () => false,
  })
  let id = 0
  const start = () => host.run('model', {}, undefined)
  let running = start()
  const left = await leftOf(async () => {
    const next = start()
    tell(['done', ++id, 1, [['y', 'BYTES', [VALUES], ballast() as unknown as string[]]], undefined])
    await running
    running = next
  })
  t.ok(left < few, `${left} bytes are left`)
})
