/** Requests one behind the other on one connection, some of them broken: each that came whole keeps its answer. */
import t from 'tap'
import { exchange } from '../fuzz/wire.js'
import { buildService, IRIS } from '../support/build.js'

const BODY = JSON.stringify(IRIS)

const predict = (fields = '') =>
  `POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n${fields}content-length: ${BODY.length}\r\n\r\n${BODY}`

const CHUNKED =
  'POST /v1/predict HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n'

const LAST = 'GET /health/live HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n'

const CASES: readonly (readonly [what: string, bytes: string, statuses: readonly number[]])[] = [
  ['all of them well', predict() + predict() + LAST, [200, 200, 200]],
  ['a body that is no JSON before one that is', predict().replace(/\}$/, '!') + predict() + LAST, [400, 200, 200]],
  ['what is no HTTP behind one that is', `${predict()}NONSENSE\r\n\r\n`, [200, 400]],
  ['headers too long behind one that is well', `${predict() + predict(`x: ${'y'.repeat(9000)}\r\n`)}`, [200, 431]],
  ['one that never comes whole behind one that does', predict() + predict().slice(0, -5), [200, 408]],
  ['a body that breaks off in the chunks', `${predict()}${CHUNKED}zz\r\n`, [200, 400]],
  [
    'a URL that is none, then what is no HTTP',
    `${predict()}GET /%zz HTTP/1.1\r\nhost: a\r\n\r\nNONSENSE\r\n\r\n`,
    [200, 400, 400],
  ],
  [
    'leave asked for to send a body that is there already',
    predict() + predict('expect: 100-continue\r\n') + LAST,
    [200, 200, 200],
  ],
  ['an expectation that nobody knows', `${predict() + predict('expect: wonders\r\n')}${LAST}`, [200, 417, 200]],
]

t.test('each request of a connection has its answer, in order, whatever comes behind it', async t => {
  const { app } = await buildService(t)
  await app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = app.server.address() as { port: number }
  for (const [what, bytes, statuses] of CASES) {
    const { answers, rest } = await exchange(port, [Buffer.from(bytes)])
    t.strictSame(
      answers.map(({ status }) => status),
      statuses,
      what,
    )
    t.equal(rest.length, 0, `${what}: and nothing besides`)
    for (const { status, headers, body } of answers) {
      t.equal(headers['x-content-type-options'], 'nosniff', `${what}: ${status}`)
      if (status >= 400) t.match(JSON.parse(`${body}`), { status, code: String, detail: String }, what)
    }
  }
})
