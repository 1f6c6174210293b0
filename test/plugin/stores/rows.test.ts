import t from 'tap'
import { Blocks } from '../../../plugin/src/stores/memory/blocks.js'
import { Table } from '../../../plugin/src/stores/memory/table.js'
import { SlidingLog } from '../../../plugin/src/window.js'

const keysOf = (table: Table) => [...table.entries()].map(([key]) => key).sort()

t.test('a row is found by its key until it is deleted, whichever generation it is in', async t => {
  const table = new Table(2)
  t.equal(table.get('a', 0), undefined)
  const a = table.add('a', 0)
  t.match(a, { denials: undefined, deniedUntil: 0 })
  t.equal(table.get('a', 0), a)
  const b = table.add('b', 0)
  table.add('c', 0)
  t.equal(table.get('b', 0), b, 'of the older generation')
  t.strictSame(keysOf(table), ['a', 'b', 'c'], 'each key once, though b is in both')
  t.equal(table.size, 3)
  t.equal(new Map(table.entries()).get('b'), b)
  table.delete('b')
  t.equal(table.get('b', 0), undefined)
  table.delete('c')
  t.equal(table.get('c', 0), undefined)
  t.strictSame(keysOf(table), ['a'])
  t.equal(table.size, 1)
})

t.test('the keys used last are kept: as many as the capacity, and at most as many again', async t => {
  const table = new Table(3)
  const seen: number[] = []
  for (let index = 0; index < 30; index++) {
    table.add(`k${index}`, 0)
    seen.push(table.size)
  }
  t.equal(Math.max(...seen), 6)
  t.strictSame(keysOf(table), ['k24', 'k25', 'k26', 'k27', 'k28', 'k29'])
  const used = new Table(3)
  for (let index = 0; index < 30; index++) {
    used.add(`k${index}`, 0)
    t.ok(used.get('k0', 0), `k0 is used again and again: ${index}`)
  }
})

t.test('a key that is being denied outlives its generation until its denial is over', async t => {
  const table = new Table(2)
  const denied = table.add('denied', 0)
  denied.deniedUntil = 100
  for (let index = 0; index < 20; index++) table.add(`k${index}`, 99)
  t.equal(table.get('denied', 99), denied)
  const over = new Table(2)
  over.add('denied', 0).deniedUntil = 100
  for (let index = 0; index < 20; index++) over.add(`k${index}`, 100)
  t.equal(over.get('denied', 100), undefined)
})

t.test('denied keys are kept up to ten times the capacity', async t => {
  const table = new Table(2)
  const seen: number[] = []
  for (let index = 0; index < 200; index++) {
    table.add(`k${index}`, 0).deniedUntil = 1000
    seen.push(table.size)
  }
  t.equal(Math.max(...seen), 22, 'twenty of older generations, and two young ones')
})

t.test('a table is in use while anything counts in its longest window, or is denied', async t => {
  const table = new Table(1)
  table.windowMs = 50
  t.equal(table.isInUse(0), false, 'nothing is there')
  const row = table.add('counted', 0)
  t.equal(table.isInUse(0), false, 'nothing counts')
  row.log.append(100, 1, 0)
  table.add('other', 100)
  t.equal(table.isInUse(149), true)
  t.equal(table.isInUse(150), false)

  const denying = new Table(5)
  denying.windowMs = 50
  denying.add('first', 0)
  denying.add('denied', 0).deniedUntil = 100
  t.strictSame([denying.isInUse(99), denying.isDenying(99)], [true, true])
  t.strictSame([denying.isInUse(100), denying.isDenying(100)], [false, false])

  const punished = new Table(5)
  punished.windowMs = 50
  const log = new SlidingLog()
  punished.add('punished', 0).denials = { count: 0, last: 0, blockedUntil: 0, log }
  t.equal(punished.isInUse(0), false)
  log.append(100, 1, 0)
  t.equal(punished.isInUse(149), true)
  t.equal(punished.isDenying(149), false, 'what is counted denies nobody')
  t.equal(punished.isInUse(150), false)
})

t.test('a block lasts for its time, for its log and key', async t => {
  const blocks = new Blocks()
  t.equal(blocks.isEmpty, true)
  t.equal(blocks.left('log', 'key', 0), 0)
  blocks.set('log', 'key', 50, 1000)
  t.equal(blocks.isEmpty, false)
  t.equal(blocks.left('log', 'key', 1000), 50)
  t.equal(blocks.left('log', 'key', 1049), 1)
  t.equal(blocks.left('log', 'key', 1050), 0)
  t.equal(blocks.left('log', 'key', 2000), 0, 'never less than 0')
  t.equal(blocks.left('log', 'other', 1000), 0)
  t.equal(blocks.left('other', 'key', 1000), 0)
  blocks.set('log', 'key', 10, 1000)
  t.equal(blocks.left('log', 'key', 1000), 10, 'another block replaces the one before')
  blocks.delete('log', 'other')
  t.equal(blocks.left('log', 'key', 1000), 10)
  blocks.delete('log', 'key')
  t.equal(blocks.left('log', 'key', 1000), 0)
  t.equal(blocks.isEmpty, true)
  blocks.set('log', 'key', 10, 1000)
  blocks.clear()
  t.equal(blocks.isEmpty, true)
})

t.test('blocks that are over are dropped when a thousand have come, and those in force are not', async t => {
  const blocks = new Blocks()
  for (let index = 0; index < 999; index++) blocks.set('log', `k${index}`, 10, 0)
  // A block that is over is still known, and a clock that is asked about an earlier time shows it.
  t.equal(blocks.left('log', 'k0', 0), 10, 'not yet')
  blocks.set('log', 'long', 1000, 10)
  t.equal(blocks.left('log', 'k0', 0), 0)
  t.equal(blocks.left('log', 'k998', 0), 0)
  t.equal(blocks.left('log', 'long', 10), 1000)
  for (let index = 0; index < 998; index++) blocks.set('log', `l${index}`, 11, 10)
  t.equal(blocks.left('log', 'l0', 10), 11, 'in force')
  blocks.set('log', 'm', 11, 20)
  t.equal(blocks.left('log', 'l0', 20), 1, 'a thousand, and all in force')
  for (let index = 0; index < 999; index++) blocks.set('log', `n${index}`, 1, 30)
  t.equal(blocks.left('log', 'l0', 20), 1, 'nothing is dropped before as many again have come')
  blocks.set('log', 'o', 1, 31)
  t.equal(blocks.left('log', 'l0', 20), 0)
  t.equal(blocks.left('log', 'long', 10), 1000)
  t.equal(blocks.left('log', 'o', 31), 1)
})
