import { createHash } from 'node:crypto'
import t from 'tap'
import { cli } from '../support/cli.js'

const sha256 = (text: string) => createHash('sha256').update(text).digest('hex')

t.test('the SHA-256 of what is piped in is printed alone; a line end does not count', async t => {
  for (const input of ['foo', 'foo\n', 'foo\r\n']) {
    t.strictSame(await cli(['hash-key'], { input }), { code: 0, stdout: `${sha256('foo')}\n`, stderr: '' })
  }
})

t.test('with a plan it is an entry for the limits file', async t => {
  const { stdout } = await cli(['hash-key', '--plan', 'pro'], { input: 'foo' })
  t.strictSame(JSON.parse(stdout), { sha256: sha256('foo'), plan: 'pro' })
})

t.test('a new key is shown apart from its SHA-256, and is another each time', async t => {
  const made = await Promise.all([1, 2].map(() => cli(['hash-key', '--new'])))
  const keys = made.map(({ stdout, stderr }) => {
    const [, key = ''] = /: ([0-9a-f]{48})\n$/.exec(stderr) ?? []
    t.equal(stdout, `${sha256(key)}\n`)
    return key
  })
  t.not(keys[0], keys[1])
})

t.test('a key as an argument is refused, and not repeated', async t => {
  const { code, stdout, stderr } = await cli(['hash-key', 'geheim'])
  t.equal(code, 2)
  t.match(stderr, /history/)
  t.notMatch(stdout + stderr, 'geheim')
})

t.test('what no header can carry is no key', async t => {
  for (const input of ['', '\n', 'two words', 'one\ntwo', 'schlüssel']) {
    t.match(await cli(['hash-key'], { input }), { code: 2, stdout: '', stderr: /^error: / }, JSON.stringify(input))
  }
})
