import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { appendFileSync, existsSync, readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { Journal, JournalError } from '../../../service/src/storage/journal.js'

function journalIn(t: Test, path = join(t.testdir(), 'folder', 'journal')) {
  const entries: unknown[] = []
  const journal = new Journal(path, { apply: entry => entries.push(entry), reset: () => (entries.length = 0) })
  return { path, journal, entries }
}

t.test('what was appended is read again by another process, in order', async t => {
  const { path, journal, entries } = journalIn(t)
  await Promise.all([1, 2, 3].map(each => journal.append(() => [{ each }])))
  await journal.append(() => [{ text: 'a line\nbreak, ü and "quotes"' }, null])
  t.equal(entries.length, 5)
  const again = journalIn(t, path)
  await again.journal.read()
  t.strictSame(again.entries, entries)
  t.notOk(existsSync(`${path}.lock`), 'the lock is released')
})

t.test('a file that is not there is empty, and is not made by reading', async t => {
  const { path, journal, entries } = journalIn(t)
  await journal.read()
  t.strictSame(entries, [])
  t.notOk(existsSync(path))
})

t.test('a file cut off at any byte has every whole entry, and takes more', async t => {
  const { path, journal } = journalIn(t)
  for (let each = 0; each < 5; each++) await journal.append(() => [{ each }])
  const whole = readFileSync(path)
  for (let length = whole.length; length >= 0; length--) {
    writeFileSync(path, whole)
    truncateSync(path, length)
    const cut = journalIn(t, path)
    await cut.journal.read()
    const lines = whole.subarray(0, length).toString().split('\n').length - 1
    t.equal(cut.entries.length, lines, `cut to ${length} bytes`)
    if (length % 7 !== 0 && whole[length] !== 10) continue
    await cut.journal.append(() => [{ each: 'new' }])
    const again = journalIn(t, path)
    await again.journal.read()
    t.strictSame(again.entries.at(-1), { each: 'new' })
    // A line that lacked nothing but its end is whole.
    t.equal(again.entries.length, lines + (whole[length] === 10 ? 2 : 1))
  }
})

t.test('damage to an entry that was acknowledged is an error, and never a loss that nobody sees', async t => {
  const { path, journal } = journalIn(t)
  for (let each = 0; each < 5; each++) await journal.append(() => [{ each }])
  const lines = readFileSync(path, 'utf8').split('\n')
  writeFileSync(path, [lines[0], lines[1]?.replace('each', 'eacH'), ...lines.slice(2)].join('\n'))
  const damaged = journalIn(t, path)
  await t.rejects(damaged.journal.read(), JournalError)
  await t.rejects(damaged.journal.read(), /is damaged: line 3 follows where line 2 is due/)
  await t.rejects(damaged.journal.append(() => [1]))
})

t.test('it is rewritten in one step, and whoever reads it notices', async t => {
  const { path, journal } = journalIn(t)
  const other = journalIn(t, path)
  for (let each = 0; each < 5; each++) await journal.append(() => [{ each }])
  await other.journal.read()
  await journal.rewrite(() => [{ each: 4 }])
  await other.journal.read()
  t.strictSame(other.entries, [{ each: 4 }])
  await other.journal.append(() => [{ each: 5 }])
  await journal.read()
  t.strictSame(readdirSync(join(path, '..')), ['journal'], 'nothing else is left')
})

t.test('two writers of one file lose nothing', async t => {
  const { path, journal, entries } = journalIn(t)
  const other = journalIn(t, path)
  const both = [journal, other.journal]
  await Promise.all(Array.from({ length: 40 }, (_, each) => (both[each % 2] as Journal).append(() => [each])))
  await journal.read()
  t.strictSame(
    [...(entries as number[])].sort((a, b) => a - b),
    Array.from({ length: 40 }, (_, each) => each),
  )
})

t.test('the lock of a process that was killed, or that had the same number, keeps nobody out', async t => {
  const { path, journal, entries } = journalIn(t)
  await journal.append(() => [1])
  const dead = spawn(process.execPath, ['-e', ''])
  await once(dead, 'exit')
  for (const content of [`${dead.pid} 00000000-0000-0000-0000-000000000000`, `${process.pid} an-earlier-life`]) {
    writeFileSync(`${path}.lock`, content)
    await journal.append(() => [content])
  }
  t.equal(entries.length, 3)
})

t.test('a writer that does not see the lock is noticed, and what it wrote first stands', async t => {
  const { path, journal } = journalIn(t)
  await journal.append(() => [1])
  const [line = ''] = readFileSync(path, 'utf8').split('\n')
  appendFileSync(path, `${line}\n`)
  const again = journalIn(t, path)
  await again.journal.read()
  t.strictSame(again.entries, [1], 'a number counts once')
})
