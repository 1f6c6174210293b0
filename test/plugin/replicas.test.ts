import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { childEnv } from '../support/child-env.js'
import { readLog } from '../support/log.js'
import { inRedis, redisClient } from '../support/plugin.js'

const script = fileURLToPath(new URL('../support/hammer.mjs', import.meta.url))

/** Runs replicas side by side; how many requests were let through, and that the others were denied, all of them. */
async function hammer(t: Test, replicas: number, ...args: (string | number)[]): Promise<number> {
  const lists = await Promise.all(
    Array.from({ length: replicas }, async () => {
      const child = spawn(process.execPath, [script, ...args.map(String)], {
        stdio: ['ignore', 'pipe', 'inherit'],
        env: childEnv(),
      })
      let output = ''
      child.stdout.on('data', data => (output += data))
      await once(child, 'close')
      return JSON.parse(output) as Record<string, number>
    }),
  )
  const sum = (status: string) => lists.reduce((total, counts) => total + (counts[status] ?? 0), 0)
  t.strictSame([...new Set(lists.flatMap(Object.keys))].sort(), ['200', '429'], JSON.stringify(lists))
  return sum('200')
}

t.test('four processes that ask all at once are let through just as often as one window allows', async t => {
  const { nameSpace } = inRedis(t)
  t.equal(await hammer(t, 4, nameSpace as string, 300, 3_600_000, 700), 300)
})

t.test('while four processes ask without a pause, no window holds more than the quota', async t => {
  const { nameSpace } = inRedis(t)
  const redis = redisClient(t)
  const [max, windowMs] = [40, 400]
  // The log itself is watched: the time of every admission, by the clock of Redis.
  const admissions = new Set<number>()
  let watching = true
  const watch = (async () => {
    while (watching) {
      for (const key of await redis.keys(`${nameSpace}*`)) {
        for (const { time } of (await readLog(redis, key)).entries) admissions.add(time)
      }
      await new Promise(resolve => setTimeout(resolve, 10))
    }
  })()
  const admitted = await hammer(t, 4, nameSpace as string, max, windowMs, 2000)
  watching = false
  await watch
  t.ok(admissions.size > max && admissions.size <= admitted, `${admissions.size} of ${admitted} were seen`)
  const times = [...admissions].sort((one, two) => one - two)
  const tooClose = times.filter((time, at) => (times[at + max] ?? Number.POSITIVE_INFINITY) - time < windowMs * 1000)
  t.strictSame(tooClose, [], `the ${max}th after any one came a whole window later`)
})
