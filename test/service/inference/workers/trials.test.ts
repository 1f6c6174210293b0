import t, { type Test } from 'tap'
import type { Host } from '../../../../service/src/inference/workers/host.js'
import { Trials } from '../../../../service/src/inference/workers/trials.js'
import { until } from '../../../support/onnx-folder.js'

const open = (t: Test, residentBytes: number): Trials => {
  const trials = new Trials({ timeoutMs: 60_000, parallel: 2, residentBytes: () => residentBytes })
  t.teardown(() => trials.close())
  return trials
}

const pidOf = async ({ pid }: Host): Promise<number> => pid as number

const lives = (pid: number): boolean => {
  try {
    return process.kill(pid, 0)
  } catch {
    return false
  }
}

t.test('a large process tries all models in one process that it keeps', async t => {
  const trials = open(t, 2 ** 31)
  const first = await trials.run(pidOf)
  await trials.rest()
  t.strictSame(await Promise.all([trials.run(pidOf), trials.run(pidOf), trials.run(pidOf)]), [first, first, first])
  await t.rejects(trials.run(() => Promise.reject(new Error('a model that is refused'))))
  await trials.rest()
  t.equal(await trials.run(pidOf), first)
  await trials.close()
  t.notOk(lives(first))
})

t.test('a kept process that is killed says nothing of the next model', async t => {
  const trials = open(t, 2 ** 31)
  let kept: Host | undefined
  const first = await trials.run(host => {
    kept = host
    return pidOf(host)
  })
  await trials.rest()
  process.kill(first, 'SIGKILL')
  await kept?.ended
  t.not(await trials.run(pidOf), first)
})

t.test('a small process keeps none, and tries models side by side', async t => {
  const trials = open(t, 2 ** 26)
  const pids: number[] = []
  const both = async (host: Host) => {
    pids.push(await pidOf(host))
    await until(() => pids.length === 2, 'two trials at the same time')
  }
  await Promise.all([trials.run(both), trials.run(both)])
  t.not(pids[0], pids[1])
  await trials.rest()
  t.strictSame(pids.filter(lives), [])
})
