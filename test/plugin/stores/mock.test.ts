/** The scripts in the Lua of ioredis-mock, held against a Redis. */
import { deepStrictEqual } from 'node:assert'
import fc from 'fast-check'
import { Redis } from 'ioredis'
import Mock from 'ioredis-mock'
import t from 'tap'
import { connectionOfMock } from '../../../plugin/src/clients/ioredis-mock.js'
import { redisKey } from '../../../plugin/src/stores/redis/codec.js'
import * as scripts from '../../../plugin/src/stores/redis/scripts.js'
import { type History, history, play } from '../../support/exact-histories.js'
import { ScriptsAt } from '../../support/scripts-at.js'

/** Runs each script on a Redis and in the mock at one time, and throws where they do not reply the same. */
class Both extends ScriptsAt {
  readonly mock = new Mock() as unknown as Redis
  readonly #connection = connectionOfMock({
    eval: (source: string, keys: number, ...args: (string | number)[]) =>
      this.mock.eval(source, keys, ...args.slice(0, -1), this.now),
  } as never)

  override async run(script: scripts.Script, keys: readonly string[], args: readonly (string | number)[]) {
    for (const key of keys) if ((await this.endOf(key)) === undefined) await this.mock.del(key)
    const reply = await super.run(script, keys, args)
    deepStrictEqual(asRead(await this.inMock(script, keys, args)), asRead(reply))
    return reply
  }

  inMock({ source }: scripts.Script, keys: readonly string[], args: readonly (string | number)[]) {
    return this.#connection.eval(source, keys, args)
  }
}

/** Redis cuts off what is less than a whole number. */
function asRead(reply: unknown): unknown {
  if (Array.isArray(reply)) return reply.map(asRead)
  return typeof reply === 'number' ? Math.trunc(reply) : reply
}

t.test('ioredis-mock replies to every script as Redis does', async t => {
  const redis = new Redis(process.env.REDIS_URL ?? 'redis://127.0.0.1:6379')
  t.teardown(() => redis.disconnect())
  const both = new Both(redis)
  t.teardown(() => both.clear())
  both.now += 656
  const key = (name: string) => redisKey(both.nameSpace, 'client', name)
  const [window, log] = [60_000_700, key('log')]

  t.equal(await both.run(scripts.BLOCK, [log], [both.now, 500_000, window]), 1)
  const end = (await both.endOf(log)) as number
  t.equal(await both.mock.pexpiretime(log), end + 1000, 'a second more, in which the commands of a script run')
  t.equal(await both.run(scripts.BLOCK, [log], [both.now - 1, 500_000, window]), -1)
  const restored = [key('restored'), key('~restored')]
  for (const usage of [5, 7, 6]) await both.run(scripts.RESTORE, restored, [usage, window, 0, 0])
  await both.run(scripts.RENEW, [key('permits')], [900_000, 44])
  await both.run(scripts.RELEASE, [key('permits')], [44])
  await both.run(scripts.PROBE, [key('probe')], [])
  for (const mark of ['one', 'two']) t.equal(await both.run(scripts.MARK, [key('mark')], [mark, 60_000]), 'one')
  for (const id of ['a', 'b', 'a']) {
    both.now += 1_234_567
    await both.run(scripts.ANNOUNCE, ['alive', 'said', 'mark'].map(key), [id, 5000, 'said', 1, 0, 'mine', 60_000])
  }
  t.equal(await both.run(scripts.RESET, [log, ...restored, key('none')], [both.now]), 3)

  for (const one of [redis, both.mock]) await one.set(log, 'foreign', 'PX', 9e12)
  t.equal(await both.run(scripts.BLOCK, [log], [both.now, 500_000, window]), -2)
  await t.rejects(both.inMock(scripts.RENEW, [log], [900_000, 44]))

  const roomForFiveAndAHalf: History = {
    ...{
      policies: [{ limit: 12, windowMs: 60_000 }],
      precision: 0.25,
      penalty: 'none',
      permits: undefined,
      permitMs: 5,
    },
    steps: [
      { do: 'check', costs: [1, 1] },
      { do: 'grant', waiting: 9, wanted: 0, share: 1 },
    ],
  }
  for (const given of [roomForFiveAndAHalf, ...fc.sample(history, { seed: 24, numRuns: 2 })]) {
    const playing = new Both(redis)
    await play(playing, given)
    await playing.clear()
  }
})
