/**
 * How replicas announce themselves, what each takes for the number of all, and how one waits for the others to have
 * written what they admitted by themselves. Redis is made up, and the clock is moved by hand.
 */
import t from 'tap'
import type { Connection } from '../../../plugin/src/stores/redis/client.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(async () => ({
  ...(await import('../../../plugin/src/stores/redis/presence.js')),
  ...(await import('../../support/stores.js')),
}))
const { checkOf, markerLife, newMarker, Replicas, shareOf, shareOfCheck } = modules

const turn = () => time.pass(0)

interface Call {
  readonly keys: readonly string[]
  readonly args: readonly (string | number)[]
  replies(reply?: Partial<Reply>): Promise<void>
  fails(): Promise<void>
}

interface Reply {
  readonly time: number
  readonly called: number
  readonly changed: number
  readonly marker: string
  /** What each replica has announced; null where that has not changed. */
  readonly said: Readonly<Record<string, string>> | null
}

function replica(given: { status?: string; dirty?: readonly string[] } = {}) {
  time.clearAll()
  const calls: Call[] = []
  const listeners = new Set<() => void>()
  const state = { status: given.status ?? 'ready', dirty: [...(given.dirty ?? [])], time: 1000 }
  const connection = {
    get status() {
      return state.status
    },
    onReady: (listener: () => void) => {
      listeners.add(listener)
      return () => listeners.delete(listener)
    },
    evalsha: (_sha: string, keys: readonly string[], args: readonly (string | number)[]) =>
      new Promise((resolve, reject) => {
        calls.push({
          keys,
          args,
          replies: (reply = {}) => {
            const { called = 0, changed = 5, marker = 'mark', said = { me: '' } } = reply
            state.time = reply.time ?? state.time + 1
            const list = said === null ? [] : Object.entries(said).flat()
            resolve([state.time, called, changed, marker, ...list])
            return turn()
          },
          fails: () => {
            reject(new Error('gone'))
            return turn()
          },
        })
      }),
  } as unknown as Connection
  const replicas = new Replicas(connection, 'n:', 'me', () => state.dirty)
  const missed: boolean[] = []
  const heard: string[] = []
  const watcher = {
    dirty: ['d'],
    longestMs: 100_000,
    missed: (isAll: boolean) => missed.push(isAll),
    heard: (marker: string) => heard.push(marker),
  }
  replicas.watch(watcher)
  /** What was sent since this was called last. */
  const sent = () => calls.splice(0)
  /** Answers what was sent, if it was one call. */
  const reply = async (of: Partial<Reply> = {}) => {
    const [call, ...more] = sent() as [Call]
    if (more.length > 0) throw new Error('more than one call')
    await call.replies(of)
    return call
  }
  const ready = () => {
    state.status = 'ready'
    for (const listener of listeners) listener()
    return turn()
  }
  /** The next announcement of those that come each second. */
  const beat = async (of: Partial<Reply> = {}) => {
    await time.pass(1000)
    return reply(of)
  }
  /** Waits for the others; tells whether that is over. */
  const wait = (node = '') => {
    const waits = { isOver: false }
    void replicas.allClean(node).then(() => {
      waits.isOver = true
    })
    return waits
  }
  return { replicas, state, sent, reply, ready, beat, wait, missed, heard, watcher, listeners }
}

// Shares -----------------------------------------------------------------------------------------------------------------

t.test('the parts of all replicas add up to the limit, and the first ones have what does not divide', async t => {
  t.strictSame(
    [0, 1, 2].map(place => shareOf(8, { count: 3, place })),
    [3, 3, 2],
  )
  t.strictSame(
    [0, 1, 2].map(place => shareOf(2, { count: 3, place })),
    [1, 1, 0],
  )
  t.strictSame(
    [0, 1].map(place => shareOf(6, { count: 2, place })),
    [3, 3],
  )
})

t.test('of a limit what was used is gone for all, and of the permits what this replica holds', async t => {
  const check = checkOf(
    ['a', 'b', 'c'].map(name => ({ name, limit: 10, windowMs: 1000 })),
    { concurrency: { max: 5, ttlMs: 900 } },
  )
  const share = shareOfCheck(check, { count: 2, place: 0 }, [3, 12], 1)
  t.strictSame(share, {
    ...check,
    policies: check.policies.map((policy, index) => ({ ...policy, limit: [4, 0, 5][index] })),
    concurrency: { ...check.concurrency, max: 2 },
  })
  t.equal(shareOfCheck(check, { count: 2, place: 1 }, [], 9).concurrency?.max, 0)
  t.equal(shareOfCheck(checkOf([{ limit: 1, windowMs: 1 }]), { count: 1, place: 0 }, [], 0).concurrency, undefined)
})

t.test('a marker outlives what it is about, a minute at least', async t => {
  t.equal(markerLife(100_000), 200_000)
  t.equal(markerLife(29_000), 60_000)
  t.match(newMarker(), /^[\w-]{12}$/)
  t.not(newMarker(), newMarker())
})

// Announcements ----------------------------------------------------------------------------------------------------------

t.test('a replica announces itself at once and each second, with what it owes and what it knows', async t => {
  const { state, reply, beat, sent, heard, replicas } = replica()
  t.strictSame([replicas.seen, replicas.isAlone], [{ count: 1, place: 0 }, true])
  const first = await reply({ changed: 7 })
  t.strictSame(
    first.keys,
    ['~alive', '~said', '~marker'].map(name => `n:{replicas}2.${name}`),
  )
  t.match(first.args, ['me', 5000, '0', 0, 0, /^[\w-]{12}$/, 0])
  t.strictSame(heard, ['mark'])
  await time.pass(999)
  t.strictSame(sent(), [])
  state.dirty.push('one', 'two', 'one')
  await time.pass(1)
  const second = await reply({ said: null, marker: 'next' })
  t.match(second.args, ['me', 5000, '1001\none\ntwo', 0, 7, String, 200_000])
  t.strictSame(heard, ['mark', 'next'])
  await beat()
  t.strictSame(replicas.dirty, ['d'])
  replicas.watch({ dirty: [], longestMs: 300_000, missed: () => {}, heard: () => {} })
  t.equal((await beat()).args[6], 600_000, 'the longest window of all')
})

t.test('a replica takes all that are listed for those that share the quotas', async t => {
  const { replicas, reply, beat } = replica()
  await reply({ said: { z: '', me: '', a: '' } })
  t.strictSame(replicas.seen, { count: 3, place: 1 })
  t.equal(replicas.isAlone, false)
  await beat({ said: null })
  t.strictSame(replicas.seen, { count: 3, place: 1 })
  await beat({ said: { z: '', me: '' } })
  t.strictSame(replicas.seen, { count: 2, place: 0 })
  await beat({ said: { z: '' } })
  t.strictSame(replicas.seen, { count: 2, place: 0 }, 'it counts itself')
  await beat({ said: { me: '' } })
  t.equal(replicas.isAlone, true)
})

t.test('while one that is known is not listed, the whole list is asked for', async t => {
  const { beat, reply, ready, state } = replica()
  await reply({ said: { me: '', a: '' }, changed: 9 })
  t.equal((await beat({ said: null })).args[4], 9)
  state.status = 'connecting'
  await ready()
  t.equal((await reply({ said: { me: '' }, changed: 11 })).args[4], 0, 'the connection was lost')
  t.equal((await beat({ said: { me: '' }, changed: 11 })).args[4], 0, 'and not all have come back')
  await beat({ said: { me: '', a: '' }, changed: 12 })
  t.equal((await beat()).args[4], 12)
})

t.test('no second announcement is sent while one is on its way, and without a connection none', async t => {
  const { state, sent, reply, ready, missed } = replica({ status: 'connecting' })
  t.strictSame(sent(), [])
  await time.pass(1000)
  t.strictSame([sent(), missed], [[], []], 'there was no connection yet')
  await ready()
  t.strictSame(missed, [], 'it is the first one')
  const [first] = sent() as [Call]
  await time.pass(1000)
  t.strictSame(sent(), [])
  await first.replies()
  await time.pass(1000)
  await reply()
  state.status = 'connecting'
  missed.splice(0)
  await time.pass(1000)
  t.strictSame([sent(), missed], [[], [false]])
  await ready()
  t.strictSame(missed, [false, true], 'all nodes may have been away')
  t.equal(sent().length, 1, 'what was sent before may never be answered')
})

t.test('half a second without a reply is a sign, and so is an error after replies', async t => {
  const { sent, missed, reply } = replica()
  const [first] = sent() as [Call]
  await time.pass(499)
  t.strictSame(missed, [])
  await time.pass(1)
  t.strictSame(missed.splice(0), [false])
  await first.replies()
  await time.pass(500)
  const second = sent()
  await time.pass(500)
  t.equal(missed.splice(0).length, 1)
  await second[0]?.fails()
  t.strictSame(missed.splice(0), [false])
  await time.pass(500)
  time.advance(499)
  await reply()
  await time.pass(500)
  t.strictSame(missed, [], 'a reply in time is none')

  const early = replica()
  await early.sent()[0]?.fails()
  t.strictSame(early.missed, [], 'there was no reply yet')
})

t.test('a reply that has arrived when half a second is over counts', async t => {
  const { sent, missed } = replica()
  const [first] = sent() as [Call]
  time.step(500)
  await first.replies()
  t.strictSame(missed, [])
})

t.test('an announcement by hand resolves with the marker of the data', async t => {
  const { replicas, reply, sent } = replica()
  await reply()
  const announced = replicas.announce()
  await reply({ marker: 'new' })
  t.equal(await announced, 'new')
  const failing = replicas.announce()
  failing.catch(() => {})
  await sent()[0]?.fails()
  await t.rejects(failing, { message: 'gone' })
})

t.test('who has heard of a call upon all answers at once, unless it calls itself', async t => {
  const { reply, sent, wait, state } = replica()
  await reply({ called: 999 })
  await turn()
  t.equal(sent().length, 1, 'there was a call since its last reply')
  const quiet = replica()
  await quiet.reply({ time: 1001 })
  await quiet.beat({ called: 1001 })
  t.strictSame(quiet.sent(), [], 'it has been answered')
  await quiet.beat({ called: 1002 })
  t.equal(quiet.sent().length, 0)
  await quiet.beat({ called: 1004 })
  t.equal(quiet.sent().length, 1)
  const calling = replica()
  await calling.reply({ said: { me: '', a: '' } })
  calling.wait()
  await calling.reply({ called: 5000, said: { me: '', a: '' } })
  await turn()
  t.strictSame(calling.sent(), [])
  t.ok([wait, state])
})

// The roll call ----------------------------------------------------------------------------------------------------------

t.test('a replica that is alone waits for one reply', async t => {
  const { reply, wait } = replica()
  await reply()
  const waits = wait()
  await turn()
  t.equal(waits.isOver, false)
  const call = await reply()
  t.strictSame([call.args[3], call.args[4]], [1, 0], 'it calls, and asks for the whole list')
  t.equal(waits.isOver, true)
  await time.pass(100)
  t.equal(time.waiting, 1, 'nothing is left but the next announcement')
})

t.test('it waits until each has said, after the call, that it owes this node nothing', async t => {
  const { reply, wait, sent } = replica()
  await reply({ said: { me: '', a: '', b: '' } })
  const waits = wait('one')
  await reply({ time: 2000, said: { me: '', a: '1999', b: '1999' } })
  t.equal(waits.isOver, false)
  const say = async (a: string, b: string) => {
    await time.pass(100)
    const call = await reply({ said: { me: '', a, b } })
    t.equal(call.args[4], 0, 'the whole list')
    return call
  }
  t.equal((await say('2000\none', '1999')).args[3], 0, 'it has called')
  await say('2000\none', '2001\ntwo')
  t.equal(waits.isOver, false, 'one owes something')
  await say('2000\nrange 5', '2001\none')
  t.equal(waits.isOver, false, 'nodes may have other names')
  await say('2000', '')
  t.equal(waits.isOver, true)
  await time.pass(100)
  t.strictSame(sent(), [])

  const ranges = replica()
  await ranges.reply({ said: { me: '', a: '' } })
  const byRange = ranges.wait('range 5')
  await ranges.reply({ time: 2000, said: { me: '', a: '2000\nany' } })
  t.equal(byRange.isOver, false)
})

t.test(
  'one that was seen before is waited for, until it has been gone for as long as an announcement holds',
  async t => {
    const { reply, ready, wait, replicas } = replica()
    await reply({ said: { me: '', a: '' } })
    // The client has connected again.
    await ready()
    await reply({ said: { me: '' } })
    const waits = wait()
    await reply({ time: 2000, said: { me: '' } })
    for (let passed = 100; passed < 5000; passed += 100) {
      await time.pass(100)
      await reply({ said: { me: '' } })
    }
    t.equal(waits.isOver, false)
    t.equal(replicas.seen.count, 2, 'all have time to come back')
    await time.pass(100)
    await reply({ said: null })
    t.equal(waits.isOver, false, 'a list that has not changed tells nothing')
    await time.pass(100)
    await reply({ said: { me: '' } })
    t.equal(waits.isOver, true)
    t.equal(replicas.seen.count, 1)
  },
)

t.test('one that is not listed any more after a call has time to come back', async t => {
  const { reply, wait, replicas } = replica()
  await reply({ said: { me: '', a: '' } })
  wait()
  await reply({ time: 2000, said: { me: '', a: '' } })
  await time.pass(100)
  await reply({ said: { me: '' } })
  t.equal(replicas.seen.count, 2)
})

t.test('after an outage each has time to come back, however long it was', async t => {
  const outages: Record<string, (made: ReturnType<typeof replica>) => Promise<void>> = {
    'a reply that comes late': async ({ sent }) => {
      await time.pass(1000)
      const [late] = sent() as [Call]
      await time.pass(20_000)
      await late.replies({ said: { me: '' } })
    },
    'no connection': async ({ state, ready, reply }) => {
      state.status = 'connecting'
      await time.pass(20_000)
      await ready()
      await reply({ said: { me: '' } })
    },
    'announcements that are refused': async ({ sent, beat }) => {
      for (let second = 0; second < 20; second++) {
        await time.pass(1000)
        await sent()[0]?.fails()
      }
      await beat({ said: { me: '' } })
    },
  }
  for (const [outage, pass] of Object.entries(outages)) {
    const made = replica()
    await made.reply({ said: { me: '', a: '', b: '' } })
    await pass(made)
    t.equal(made.replicas.seen.count, 3, outage)
    for (let second = 1; second < 5; second++) await made.beat({ said: { me: '', a: '' } })
    t.equal(made.replicas.seen.count, 3, outage)
    await made.beat({ said: { me: '', a: '' } })
    t.equal(made.replicas.seen.count, 2, `${outage}: who is not listed by then is gone`)
  }
})

t.test('one that is first listed with the reply to the call is waited for too', async t => {
  const { reply, wait } = replica()
  await reply()
  const waits = wait()
  await reply({ time: 2000, said: { me: '', new: '' } })
  t.equal(waits.isOver, false)
  await time.pass(100)
  await reply({ said: { me: '', new: '2000' } })
  t.equal(waits.isOver, true)
})

t.test('two calls are answered each for itself', async t => {
  const { reply, wait } = replica()
  await reply({ said: { me: '', a: '' } })
  const one = wait('one')
  await reply({ time: 2000, said: { me: '', a: '' } })
  const two = wait('two')
  await reply({ time: 3000, said: { me: '', a: '2500' } })
  t.strictSame([one.isOver, two.isOver], [true, false])
  await time.pass(100)
  await reply({ said: { me: '', a: '3000' } })
  t.equal(two.isOver, true)
})

t.test('a call that comes while an announcement is on its way stands in the next one', async t => {
  const { reply, wait, sent } = replica()
  await reply({ said: { me: '', a: '' } })
  await time.pass(1000)
  const [earlier] = sent() as [Call]
  const waits = wait()
  t.strictSame(sent(), [])
  await earlier.replies({ time: 2000, said: { me: '', a: '3000' } })
  t.equal(waits.isOver, false)
  await time.pass(100)
  t.equal((await reply({ time: 3000, said: { me: '', a: '3000' } })).args[3], 1)
  t.equal(waits.isOver, true)
})

// The end ----------------------------------------------------------------------------------------------------------------

t.test('at the end it takes its announcement back, and waits for nobody', async t => {
  const { replicas, reply, wait, sent, listeners, ready } = replica()
  await reply({ said: { me: '', a: '' } })
  const waits = wait()
  await reply({ said: { me: '', a: '' } })
  replicas.close()
  await turn()
  t.equal(waits.isOver, true)
  const [last] = sent() as [Call]
  t.strictSame([last.args[1], last.args[3]], [0, 0])
  await last.fails()
  t.strictSame([listeners.size, time.waiting], [0, 0])
  await ready()
  await time.pass(2000)
  t.strictSame(sent(), [])

  const kept = replica()
  await kept.reply()
  kept.replicas.close(false)
  t.strictSame(kept.sent(), [])
  const lost = replica()
  await lost.reply()
  lost.state.status = 'connecting'
  lost.replicas.close()
  t.strictSame(lost.sent(), [])
  const asking = replica()
  await asking.reply()
  await time.pass(1000)
  const [call] = asking.sent() as [Call]
  asking.replicas.close(false)
  await call.fails()
  t.strictSame(asking.missed, [], 'an error after the end is no sign')
})

t.test('who does not watch any more is told nothing', async t => {
  const { replicas, reply, heard, watcher, beat } = replica()
  await reply()
  replicas.unwatch(watcher)
  t.equal((await beat()).args[6], 0)
  t.strictSame(heard, ['mark'])
  t.strictSame(replicas.dirty, [])
})
