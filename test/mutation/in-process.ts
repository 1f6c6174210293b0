/**
 * The tests of the scripts in this process: those of `to-the-microsecond.test.ts` and of `scripts.test.ts`. A mutant costs
 * no start of a process, and most are killed by one of the first histories.
 */
import assert from 'node:assert'
import fc from 'fast-check'
import { Redis } from 'ioredis'
import { history, play } from '../support/exact-histories.js'
import { SCRIPT_CASES } from '../support/script-cases.js'
import { ScriptsAt } from '../support/scripts-at.js'

/** Milliseconds between two looks at whether a script still runs. */
const LOOK_MS = 250

const HISTORIES = fc.sample(history, { seed: 24, numRuns: 80 })

/**
 * Runs the tests on the Redis at `url`, with each script changed by `change`, until one fails.
 *
 * @param hasHistories whether checks and refunds are meant, which the histories are about
 * @returns why the first one failed; 'time limit' after `limitMs`, or once the Redis is busy with a script; undefined where
 * none fails
 */
export async function firstFailure(
  url: string,
  change: (source: string) => string,
  hasHistories: boolean,
  limitMs: number,
): Promise<string | undefined> {
  const connect = () => new Redis(url, { retryStrategy: () => null, maxRetriesPerRequest: 0 }).on('error', () => {})
  const [redis, watcher] = [connect(), connect()]
  const timers: NodeJS.Timeout[] = []
  const late = new Promise<string>(resolve => {
    timers.push(setTimeout(resolve, limitMs, 'time limit'))
    const isBusy = (error: Error) => error.message.startsWith('BUSY') && resolve('time limit of a script')
    timers.push(setInterval(() => watcher.ping().catch(isBusy), LOOK_MS))
  })
  const all = async () => {
    await redis.flushall()
    try {
      if (hasHistories) for (const given of HISTORIES) await play(new ScriptsAt(redis, change), given)
      for (const { title, run } of SCRIPT_CASES) {
        await run({
          redis,
          change,
          equal: (found, wanted, what) => assert.strictEqual(found, wanted, `${title}: ${what ?? found}`),
          strictSame: (found, wanted, what) => assert.deepStrictEqual(found, wanted, `${title}: ${what ?? found}`),
          ok: (found, what) => assert.ok(found, `${title}: ${what}`),
          teardown: () => {},
        })
      }
      return undefined
    } catch (error) {
      return (error as Error).message || 'an error without a message'
    }
  }
  try {
    return await Promise.race([all(), late])
  } finally {
    for (const timer of timers) clearInterval(timer)
    redis.disconnect()
    watcher.disconnect()
  }
}
