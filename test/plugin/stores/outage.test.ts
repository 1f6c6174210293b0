/**
 * How a replica admits by itself while a node cannot be asked, and how it returns, also to a cluster whose nodes have
 * changed meanwhile. Redis and the other replicas are made up, and the clock is moved by hand.
 */
import t from 'tap'
import { ChargeTooLarge, StoreForeignKey, StoreTimeout } from '../../../plugin/src/errors.js'
import type { OutageParts } from '../../../plugin/src/stores/redis/outage.js'
import type { Answer, Check } from '../../../plugin/src/stores/store.js'
import { atTimeByHand } from '../../support/time-by-hand.js'

const { time, modules } = await atTimeByHand(async () => ({
  ...(await import('../../../plugin/src/stores/redis/outage.js')),
  ...(await import('../../../plugin/src/stores/memory/memory-store.js')),
  ...(await import('../../../plugin/src/stores/redis/codec.js')),
  ...(await import('../../support/stores.js')),
  scripts: await import('../../../plugin/src/stores/redis/scripts.js'),
}))
const { Outage, MemoryStore, redisKey, checkOf, namesOf, scripts } = modules

const HOUR = 3_600_000
const check = checkOf([{ limit: 5, windowMs: HOUR }])
const keyed = (key: string): Check => ({ ...check, key })

const used = (...units: readonly number[]): Answer => ({
  allowed: true,
  policies: units.map(used => ({ used, resetMs: HOUR, retryMs: 0, denials: 0 })),
})

const turn = () => time.pass(0)
const gone = new StoreTimeout(1000)

interface World {
  status: string
  /** Which node holds a key. */
  holder: (key: string) => string
  /** The marker of the data of a node; an error where it does not answer. */
  marker: string | Error | Promise<string>
  markers: { readonly keys: readonly string[]; readonly args: readonly unknown[] }[]
  charges: { readonly key: string; readonly cost: number }[]
  /** Of these keys, the ones whose quota taken ahead was recalled, each time. */
  recalled: string[][]
  /** What becomes of a charge. */
  charge: (check: Check) => Answer | Promise<Answer>
  restored: { readonly keys: readonly string[]; readonly args: readonly unknown[] }[]
  restoring: () => Promise<unknown>
  isAlone: boolean
  count: number
  held: number
  watchers: Set<unknown>
  /** Waits for the other replicas, by node, until the test says that they are done. */
  waits: { readonly node: string; readonly done: () => Promise<void> }[]
}

function replica(given: { isCluster?: boolean; nodes?: readonly string[]; capacity?: number } = {}) {
  time.clearAll()
  const { isCluster = false, nodes = ['one'], capacity = 10 } = given
  const world: World = {
    ...{ status: 'ready', holder: () => 'one', marker: 'its data', markers: [], charges: [], restored: [], waits: [] },
    ...{
      recalled: [],
      charge: () => used(2),
      restoring: async () => 1,
      isAlone: false,
      count: 2,
      held: 0,
      watchers: new Set(),
    },
  }
  const nodeOf = (key: string) => (isCluster ? world.holder(key) : undefined)
  const marker = async () => {
    if (world.marker instanceof Error) throw world.marker
    return world.marker
  }
  const local = new MemoryStore(100)
  const parts = {
    connection: {
      get status() {
        return world.status
      },
      isCluster,
      nodeOf: () => 'one',
      evalsha: async (sha: string, keys: readonly string[], args: readonly unknown[]) => {
        if (sha === scripts.RESTORE.sha) {
          world.restored.push({ keys, args })
          return world.restoring()
        }
        world.markers.push({ keys, args })
        return marker()
      },
    },
    store: {
      nodes,
      nodeOf,
      held: () => world.held,
      recall: (isMeant: (key: string) => boolean) => world.recalled.push(['a', 'b'].filter(isMeant)),
      charge: async (check: Check) => {
        world.charges.push({ key: check.key, cost: check.policies[0]?.cost ?? 0 })
        return world.charge(check)
      },
    },
    replicas: {
      get seen() {
        return { count: world.count, place: 0 }
      },
      get isAlone() {
        return world.isAlone
      },
      watch: (watcher: unknown) => world.watchers.add(watcher),
      unwatch: (watcher: unknown) => world.watchers.delete(watcher),
      announce: marker,
      allClean: (node: string) =>
        new Promise<void>(resolve => {
          const done = async () => {
            resolve()
            await turn()
          }
          world.waits.push({ node, done })
        }),
    },
    local,
    nameSpace: 'n:',
    stored: (key: string) => key,
    timeoutMs: 500,
    capacity,
  }
  const outage = new Outage(parts as unknown as OutageParts)
  /** Admits by itself, as the limiter does. */
  const admit = (of: Check = check) => outage.gave(of, local.check(of), gone)
  /** The other replicas are done with all that is waited for. */
  const clean = async () => {
    for (const { done } of world.waits.splice(0)) await done()
  }
  const lose = (node?: string) => outage.circuit(true, node)
  const find = async (node?: string) => {
    outage.circuit(false, node)
    await turn()
  }
  return { outage, world, local, admit, clean, lose, find }
}

t.test('what was taken ahead of a node is recalled when it may have missed something, once', async t => {
  const { outage, world, admit, lose, find, clean } = replica()
  lose()
  admit()
  outage.missed(true)
  t.strictSame(world.recalled, [['a', 'b']])
  await find()
  await clean()
  lose()
  t.equal(world.recalled.length, 2)

  const cluster = replica({ isCluster: true, nodes: ['one', 'two'] })
  cluster.world.holder = key => (key === 'a' ? 'one' : 'two')
  cluster.lose('two')
  t.strictSame(cluster.world.recalled, [['b']])
})

// One node ---------------------------------------------------------------------------------------------------------------

t.test('a replica is guarded from the outage on until all replicas have written what they admitted', async t => {
  const { outage, world, admit, clean, lose, find } = replica()
  t.equal(world.watchers.size, 1)
  t.strictSame([outage.isGuarded(check), outage.isAway(check), outage.dirty], [false, false, []])
  const { guards } = outage
  lose()
  t.strictSame([outage.isGuarded(check), outage.isAway(check), outage.dirty], [true, true, ['']])
  t.equal(outage.guards, guards + 1)
  t.equal(outage.wasLeft(check, guards), true)
  t.equal(outage.wasLeft(check, outage.guards), false)
  admit()
  admit()
  const writing = new Promise<void>(resolve => {
    world.charge = async () => {
      await new Promise<void>(end => {
        world.waits.push({ node: 'charge', done: async () => end() })
      })
      resolve()
      return used(2)
    }
  })
  await find()
  t.strictSame([outage.isGuarded(check), outage.isAway(check), outage.dirty], [true, true, ['']], 'it writes')
  await clean()
  await writing
  await turn()
  t.strictSame(world.charges, [{ key: 'client', cost: 2 }])
  t.strictSame([outage.isGuarded(check), outage.isAway(check), outage.dirty], [true, false, []], 'it waits')
  t.equal(world.waits[0]?.node, '')
  world.isAlone = true
  t.equal(outage.isGuarded(check), false, 'for nobody')
  world.isAlone = false
  await clean()
  t.strictSame([outage.isGuarded(check), outage.isAway(check), outage.dirty], [false, false, []])
  t.equal(time.waiting, 0)
  outage.heard('its data')
  t.strictSame(world.markers, [], 'the announcement has told the marker')
  lose()
  t.equal(outage.isGuarded(check), true, 'the next one')
})

t.test('keys of policies count where they are', async t => {
  const { outage, lose } = replica({ isCluster: true, nodes: ['one', 'two'] })
  const two = { ...check, keys: ['a', 'b'] }
  const byKey = replica({ isCluster: true })
  byKey.world.holder = key => (key === 'b' ? 'two' : 'one')
  byKey.lose('two')
  t.equal(byKey.outage.isGuarded(two), true)
  t.equal(byKey.outage.isAway(two), true)
  t.equal(byKey.outage.wasLeft(two, 0), true)
  t.equal(byKey.outage.isGuarded({ ...check, key: 'b', keys: ['a'] }), false)
  t.equal(byKey.outage.isAway({ ...check, key: 'b', keys: ['a'] }), false)
  t.equal(byKey.outage.wasLeft({ ...check, key: 'b', keys: ['a'] }, 0), false)
  t.strictSame(byKey.outage.dirty, ['two'])
  lose('other')
  t.equal(outage.isGuarded(check), false)
})

t.test('an outage that begins again during the return has it begin anew, a quarter of a second later', async t => {
  const { outage, world, admit, clean, lose, find } = replica()
  lose()
  admit()
  let end = () => {}
  world.charge = () =>
    new Promise<Answer>(resolve => {
      end = () => resolve(used(1))
    })
  await find()
  lose()
  outage.circuit(false, undefined)
  end()
  await turn()
  t.strictSame(world.waits, [], 'what was written may not be all')
  t.equal(outage.isAway(check), true)
  await time.pass(249)
  t.strictSame(world.waits, [])
  await time.pass(1)
  t.equal(world.waits.length, 1)
  t.equal(world.charges.length, 1, 'and it is written once')

  // Again, while it waits for the others.
  lose()
  await clean()
  t.equal(outage.isGuarded(check), true)
  await find()
  t.equal(world.waits.length, 1)
  await clean()
  t.equal(outage.isGuarded(check), false)
})

t.test('while the circuit is open, or there is no connection, nothing is written', async t => {
  const { world, outage, admit, lose } = replica()
  lose()
  admit()
  outage.heard('its data')
  outage.answered(check, used(1))
  await turn()
  t.strictSame(world.charges, [])
  world.status = 'connecting'
  outage.circuit(false, undefined)
  await turn()
  t.strictSame(world.charges, [])
  world.status = 'ready'
  outage.heard('its data')
  await turn()
  t.equal(world.charges.length, 1)
})

t.test('what was missed without an open circuit is written as soon as Redis answers anything', async t => {
  for (const how of ['heard', 'answered'] as const) {
    const { outage, world, admit } = replica()
    admit()
    t.equal(outage.isGuarded(check), true)
    if (how === 'heard') outage.heard('its data')
    else outage.answered(check, used(1))
    await turn()
    t.strictSame(world.charges, [{ key: 'client', cost: 1 }])
  }
  const { outage } = replica()
  outage.missed(false)
  t.equal(outage.isGuarded(check), true, 'the announcement had no answer')
  const guards = outage.guards
  outage.missed(true)
  t.equal(outage.guards, guards + 1)
})

t.test('what cannot be written now is tried again, and what never can be is given up', async t => {
  const { outage, world, admit, lose, find } = replica()
  lose()
  admit()
  admit(keyed('other'))
  world.charge = ({ key }) => {
    if (key === 'other') return used(1)
    throw gone
  }
  await find()
  t.equal(outage.isAway(check), true)
  t.equal(world.charges.length, 2)
  world.charge = () => used(1)
  await time.pass(250)
  t.strictSame(world.charges.slice(2), [{ key: 'client', cost: 1 }], 'only what is still owed')
  for (const error of [new StoreForeignKey(), new ChargeTooLarge()]) {
    const one = replica()
    one.lose()
    one.admit()
    one.world.charge = () => {
      throw error
    }
    await one.find()
    t.equal(one.world.waits.length, 1)
    await one.clean()
    one.lose()
    await one.find()
    t.equal(one.world.charges.length, 1)
  }
})

t.test('a key that holds a foreign value is no outage', async t => {
  const { outage, local } = replica()
  outage.gave(check, local.check(check), new StoreForeignKey())
  t.equal(outage.isGuarded(check), false)
  outage.gave(check, used(1), gone)
  t.equal(outage.isGuarded(check), false, 'nothing was charged')
})

t.test('what was given back, or was reset, is not written', async t => {
  const { outage, world, local, lose, find } = replica()
  lose()
  const answer = local.check(check)
  outage.gave(check, answer, gone)
  outage.gave(check, local.check(check), gone)
  const [policy] = check.policies
  const admission = answer.policies[0]?.admission
  outage.tookBack(check, [{ policy: policy as never, cost: 1, admission }])
  const other = keyed('other')
  outage.gave(other, local.check(other), gone)
  outage.tookBack(check, [{ policy: policy as never, cost: 1, admission, key: 'other' }])
  const third = keyed('third')
  outage.gave(third, local.check(third), gone)
  outage.reset('third', namesOf(third))
  await find()
  t.strictSame(world.charges, [{ key: 'client', cost: 1 }])
})

t.test('what is given back for several keys is given back for each', async t => {
  const { outage, world, local, lose, find } = replica()
  lose()
  const [policy] = check.policies
  const refunds = ['client', 'other'].map(key => {
    const of = keyed(key)
    const answers = [local.check(of), local.check(of)]
    for (const answer of answers) outage.gave(of, answer, gone)
    return { policy: policy as never, cost: 1, admission: answers[0]?.policies[0]?.admission, key }
  })
  outage.tookBack(check, refunds)
  await find()
  t.strictSame(world.charges, [
    { key: 'client', cost: 1 },
    { key: 'other', cost: 1 },
  ])
})

t.test('what was written is known as what Redis says of it', async t => {
  const { outage, admit, lose, find, clean } = replica()
  lose()
  admit()
  await find()
  t.equal(outage.share(check).policies[0]?.limit, 3)
  await clean()
  t.equal(outage.share(check).policies[0]?.limit, 2, 'two of five are used')
})

t.test('the share goes on from what was used before the outage', async t => {
  const { outage, world, lose, find, clean } = replica()
  const limitOf = () => outage.share(check).policies[0]?.limit
  t.equal(limitOf(), 3, 'of five, for the first of two')
  outage.answered(check, used(3))
  t.equal(limitOf(), 1)
  lose()
  lose()
  t.equal(limitOf(), 1)
  await find()
  outage.answered(check, used(5))
  t.equal(limitOf(), 1, 'what replicas admit in their shares is no part of what they share')
  await clean()
  t.equal(limitOf(), 0, 'until all have returned')
  outage.reset('client', namesOf(check))
  t.equal(limitOf(), 3)
  world.held = 1
  const held = checkOf([{ limit: 5, windowMs: HOUR }], { concurrency: { max: 7 } })
  t.equal(outage.share(held).concurrency?.max, 3, 'and of seven permits four, of which one is held')
  t.equal(outage.share(check).concurrency, undefined)
})

t.test('what was used before the outage counts until all that was taken ahead of it is out of the window', async t => {
  for (const [precision, lateMs] of [
    [0.25, 250],
    [0.1, 100],
  ] as const) {
    const check = checkOf([{ limit: 20, windowMs: 1000 }], { precision })
    const { outage, world, lose, find } = replica()
    const limitOf = () => outage.share(check).policies[0]?.limit
    outage.heard('its data')
    outage.answered(check, {
      allowed: true,
      policies: [{ used: 4, prefetched: 6, resetMs: 1000, retryMs: 0, denials: 0 }],
    })
    lose()
    time.advance(1000 + lateMs - 1)
    t.equal(limitOf(), 5)
    world.marker = 'other data'
    await find()
    t.match(world.restored, [{ args: [10, 1_000_000] }])
    time.advance(1)
    t.equal(limitOf(), 10)
  }
  for (const [windowMs, precision, lateMs] of [
    [1_000_000, 0.25, 1000],
    [1000, 0, 0],
  ] as const) {
    const check = checkOf([{ limit: 20, windowMs }], { precision })
    const { outage, lose } = replica()
    const limitOf = () => outage.share(check).policies[0]?.limit
    outage.answered(check, { allowed: true, policies: [{ used: 10, resetMs: windowMs, retryMs: 0, denials: 0 }] })
    lose()
    time.advance(windowMs + lateMs - 1)
    t.equal(limitOf(), 5)
    time.advance(1)
    t.equal(limitOf(), 10)
  }
})

t.test('while it is not known whether the data is lost, an answer tells nothing of it', async t => {
  const { outage, world, lose, find, clean } = replica()
  let end = (_marker: string) => {}
  world.marker = new Promise(resolve => {
    end = resolve
  })
  lose()
  await find()
  outage.answered(check, used(3))
  end('its data')
  await clean()
  await turn()
  await clean()
  t.equal(outage.share(check).policies[0]?.limit, 3)
})

// Lost data --------------------------------------------------------------------------------------------------------------

const both = checkOf([
  { name: 'a', limit: 5, windowMs: HOUR },
  { name: 'b', limit: 9, windowMs: 60_000 },
])

t.test('a node that has lost its data is told what was known of each log of a key, in one call', async t => {
  const { outage, world, clean, lose, find } = replica()
  outage.answered(both, used(3, 4))
  outage.answered(keyed('other'), used(2))
  outage.heard('its data')
  lose()
  world.marker = 'other data'
  await find()
  const keys = ['log.a', '~log.a', 'log.b', '~log.b'].map(name => redisKey('n:', 'client', name))
  t.strictSame(world.restored, [
    { keys, args: [3, 3_600_000_000, 0, 0, 4, 60_000_000, 0, 0] },
    {
      keys: ['log.p', '~log.p'].map(name => redisKey('n:', 'other', name)),
      args: [2, 3_600_000_000, 0, 0],
    },
  ])
  await clean()
  lose()
  await find()
  t.equal(world.restored.length, 2, 'once')
})

t.test('nothing is restored where the data is the same, or there was none that could be lost', async t => {
  for (const [before, after] of [
    ['its data', 'its data'],
    [undefined, 'its data'],
    ['', 'its data'],
  ] as const) {
    const { outage, world, lose, find } = replica()
    outage.answered(check, used(3))
    if (before !== undefined) outage.heard(before)
    lose()
    world.marker = after
    await find()
    t.strictSame(world.restored, [])
  }
  const emptied = replica()
  emptied.outage.answered(check, used(3))
  emptied.outage.heard('its data')
  emptied.outage.heard('new data')
  emptied.lose()
  emptied.world.marker = 'new data'
  await emptied.find()
  t.strictSame(emptied.world.restored, [], 'it was emptied on purpose')
  const during = replica()
  during.outage.answered(check, used(3))
  during.outage.heard('its data')
  during.lose()
  during.outage.heard('other data')
  during.world.marker = 'other data'
  await during.find()
  t.equal(during.world.restored.length, 1)
})

t.test('what could not be restored is restored at the next try', async t => {
  const { outage, world, lose, find } = replica()
  outage.answered(check, used(3))
  outage.heard('its data')
  lose()
  world.marker = 'other data'
  world.restoring = async () => {
    throw gone
  }
  await find()
  t.equal(world.restored.length, 1)
  t.equal(outage.isAway(check), true)
  world.restoring = async () => 1
  await time.pass(250)
  t.equal(world.restored.length, 2)
  t.equal(outage.isAway(check), false)
})

t.test('a node has a second to say which data it has', async t => {
  const { outage, world, lose, find } = replica()
  world.marker = new Promise(() => {})
  lose()
  await find()
  await time.pass(1000)
  t.equal(time.waiting, 1, 'it is tried again')
  world.marker = 'its data'
  await time.pass(249)
  t.equal(outage.isAway(check), true)
  await time.pass(1)
  t.equal(outage.isAway(check), false)
  t.equal(time.waiting, 0)
})

t.test('no more than 64 keys are written at a time', async t => {
  const { world, admit, lose, find } = replica({ capacity: 100 })
  lose()
  for (let key = 0; key < 65; key++) admit(keyed(`${key}`))
  const ends: (() => void)[] = []
  world.charge = () =>
    new Promise(resolve => {
      ends.push(() => resolve(used(1)))
    })
  await find()
  t.equal(world.charges.length, 64)
  for (const end of ends) end()
  await turn()
  t.equal(world.charges.length, 65)
})

// Clusters ---------------------------------------------------------------------------------------------------------------

t.test('what was admitted for a node that is gone is written to the one that has its keys now', async t => {
  const { outage, world, admit, clean } = replica({ isCluster: true })
  outage.circuit(true, 'one')
  admit()
  admit()
  t.equal(outage.isGuarded(check), true)
  world.holder = () => 'two'
  outage.circuit(false, 'one')
  await turn()
  t.strictSame(world.charges, [{ key: 'client', cost: 2 }])
  t.strictSame(world.waits.map(({ node }) => node).sort(), ['one', 'two'])
  await clean()
  t.equal(outage.isGuarded(check), false)
})

t.test('each node of a cluster is left and returned to by itself', async t => {
  const { outage, world, admit, clean } = replica({ isCluster: true, nodes: ['one', 'two'] })
  world.holder = key => (key === 'a' ? 'one' : 'two')
  const [a, b] = [keyed('a'), keyed('b')]
  outage.circuit(true, 'one')
  t.strictSame([outage.isGuarded(a), outage.isGuarded(b)], [true, false])
  admit(a)
  outage.answered(b, used(3))
  t.equal(outage.share(b).policies[0]?.limit, 1)
  outage.circuit(false, 'one')
  await turn()
  t.match(world.markers, [{ keys: [/^n:\{\d+\}2\.~marker$/], args: [String, 2 * HOUR] }])
  t.strictSame(world.charges, [{ key: 'a', cost: 1 }])
  t.strictSame(
    world.waits.map(({ node }) => node),
    ['one'],
  )
  await clean()
  t.equal(outage.isGuarded(a), false)
  outage.circuit(true, undefined)
  t.strictSame([outage.isGuarded(a), outage.isGuarded(b)], [true, true], 'all of them')
})

t.test('what was told while a node was guarded against is taken over once no node is', async t => {
  const { outage, world } = replica({ isCluster: true, nodes: ['one', 'two'] })
  world.holder = key => (key === 'a' ? 'one' : 'two')
  for (const node of ['one', 'two']) outage.circuit(true, node)
  outage.circuit(false, undefined)
  await turn()
  outage.answered(keyed('b'), used(4))
  const limitOf = () => outage.share(keyed('b')).policies[0]?.limit
  const [one, two] = [...world.waits].sort((a, b) => a.node.localeCompare(b.node))
  await one?.done()
  t.equal(limitOf(), 3)
  await two?.done()
  t.equal(limitOf(), 1)
})

t.test('the node that holds what replicas announce is the one that missed an announcement', async t => {
  const { outage, world } = replica({ isCluster: true })
  world.holder = key => (key === 'replicas' ? 'two' : 'one')
  for (const node of ['one', 'two']) outage.circuit(false, node)
  outage.missed(false)
  t.strictSame(outage.dirty, ['two'])
  outage.missed(true)
  t.strictSame(outage.dirty, ['one', 'two'])
})

t.test('of a cluster the markers of all nodes are looked at, with every eleventh announcement', async t => {
  const { outage, world } = replica({ isCluster: true, nodes: ['one', 'two'] })
  const looks = async () => {
    outage.heard('of the cluster')
    await turn()
    return world.markers.splice(0).length
  }
  t.equal(await looks(), 2)
  for (let count = 0; count < 10; count++) t.equal(await looks(), 0)
  t.equal(await looks(), 2)
  world.marker = gone
  for (let count = 0; count < 10; count++) await looks()
  t.equal(await looks(), 2, 'a node that gives no answer is looked at again')

  const lost = replica({ isCluster: true })
  lost.outage.answered(check, used(3))
  lost.outage.heard('')
  await turn()
  lost.outage.circuit(true, 'one')
  lost.world.marker = 'other data'
  for (let count = 0; count < 11; count++) lost.outage.heard('')
  await turn()
  lost.outage.circuit(false, 'one')
  await turn()
  t.equal(lost.world.restored.length, 1, 'while it is away its marker is not taken over')
})

t.test('only the node that has lost its data is told', async t => {
  const { outage, world } = replica({ isCluster: true, nodes: ['one', 'two'] })
  world.holder = key => (key === 'a' ? 'one' : 'two')
  outage.answered(keyed('a'), used(3))
  outage.answered(keyed('b'), used(4))
  outage.heard('')
  await turn()
  outage.circuit(true, 'one')
  world.marker = 'other data'
  outage.circuit(false, 'one')
  await turn()
  t.strictSame(
    world.restored.map(({ args }) => args[0]),
    [3],
  )
})

// The end ----------------------------------------------------------------------------------------------------------------

t.test('at the end what is owed is written where that can be, and nothing more happens', async t => {
  const { outage, world, admit } = replica({ isCluster: true, nodes: ['one', 'two'] })
  world.holder = key => (key === 'a' ? 'one' : 'two')
  admit(keyed('a'))
  admit(keyed('b'))
  outage.circuit(true, 'two')
  await Promise.all([outage.close(), outage.close()])
  t.strictSame(world.charges, [{ key: 'a', cost: 1 }])
  t.equal(world.watchers.size, 0)
  admit(keyed('a'))
  await outage.close()
  t.equal(world.charges.length, 1, 'it is closed once')
  const { guards } = outage
  outage.missed(true)
  t.equal(outage.guards, guards)
  outage.circuit(false, 'two')
  await turn()
  t.equal(world.charges.length, 1)
})

t.test('at the end a node has as long as a check has, and a retry is called off', async t => {
  const { outage, world, admit, lose, find } = replica()
  lose()
  admit()
  world.charge = () => {
    throw gone
  }
  await find()
  t.equal(time.waiting, 1)
  world.charge = () => new Promise(() => {})
  let isClosed = false
  void outage.close().then(() => {
    isClosed = true
  })
  await time.pass(499)
  t.equal(isClosed, false)
  await time.pass(1)
  t.equal(isClosed, true)
  t.equal(time.waiting, 0)

  const lost = replica()
  lost.admit()
  lost.world.status = 'connecting'
  await lost.outage.close()
  t.strictSame(lost.world.charges, [])

  const writing = replica()
  writing.lose()
  writing.admit()
  let fail = () => {}
  writing.world.charge = () =>
    new Promise((_resolve, reject) => {
      fail = () => reject(gone)
    })
  await writing.find()
  const closing = writing.outage.close()
  fail()
  await turn()
  await closing
  t.equal(time.waiting, 0, 'it is not tried again')

  const waiting = replica()
  waiting.lose()
  await waiting.find()
  await waiting.outage.close()
  await waiting.clean()
  t.equal(waiting.outage.isGuarded(check), true, 'nothing changes any more')
})

// Memory -----------------------------------------------------------------------------------------------------------------

t.test(
  'logs whose usage is over are forgotten where there are a thousand, and twice as many as were in use',
  async t => {
    const policyOf = (name: string) => checkOf([{ name, limit: 5, windowMs: HOUR }])
    const { outage } = replica({ capacity: 5000 })
    const answered = (from: number, to: number, units: number) => {
      for (let index = from; index < to; index++) outage.answered(policyOf(`${index}`), used(units))
    }
    answered(0, 600, 1)
    answered(600, 1000, 0)
    t.strictSame([outage.logs, outage.longestMs], [1000, HOUR])
    answered(1000, 1001, 1)
    t.equal(outage.logs, 601)
    answered(1001, 1600, 0)
    t.equal(outage.logs, 1200)
    answered(1600, 1601, 1)
    t.equal(outage.logs, 602)

    const late = replica({ capacity: 5000 })
    late.lose()
    await late.find()
    late.outage.answered(policyOf('kept'), used(3))
    for (let index = 0; index < 1000; index++) late.outage.answered(policyOf(`${index}`), used(0))
    t.equal(late.outage.logs, 2, 'what was told in an outage is in use')
  },
)
