import t from 'tap'
import { ComeBack } from '../../../../service/src/inference/queue/come-back.js'

/** One row a millisecond of all the workers together. */
const EACH_MS = 1

/** Whole seconds, as clients are told, of so many who are refused evenly in `ms` milliseconds. */
function told(comeBack: ComeBack, refused: number, ms: number): { at: number; seconds: number }[] {
  return Array.from({ length: refused }, (_, index) => {
    const at = (index * ms) / refused
    return { at, seconds: Math.max(1, Math.ceil(comeBack.next(at, EACH_MS, 0) / 1000)) }
  })
}

/** The most that come back within any half second. */
function crowd(list: readonly { at: number; seconds: number }[]): number {
  const times = list.map(({ at, seconds }) => at + seconds * 1000)
  return Math.max(...times.map(time => times.filter(other => other >= time && other < time + 500).length))
}

t.test('those who were refused in one surge come back in the room that others leave', async t => {
  for (const excess of [0.5, 1, 2]) {
    const list = told(new ComeBack(), excess * 1000, 1000)
    t.ok(crowd(list) <= 300, `${crowd(list)} in half a second, in which 500 can be served`)
    t.ok(list.every(({ seconds }) => seconds <= 10))
  }
})

t.test('a single one that was refused comes back after a second, or after what it would wait', async t => {
  t.equal(told(new ComeBack(), 1, 1)[0]?.seconds, 1)
  t.equal(Math.ceil(new ComeBack().next(0, EACH_MS, 2500)), 2500)
})

t.test('nobody is told to wait longer than ten seconds, however many there are', async t => {
  const list = told(new ComeBack(), 50_000, 1000)
  t.ok(list.every(({ seconds }) => seconds <= 10))
  const late = list.slice(-1000).filter(({ seconds }) => seconds >= 5)
  t.ok(late.length > 900, `${late.length} of the last thousand are not to come while the others do`)
})
