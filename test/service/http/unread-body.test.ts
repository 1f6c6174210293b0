import { connect, type Socket } from 'node:net'
import t, { type Test } from 'tap'
import { buildService } from '../../support/build.js'

const MIB = 2 ** 20

async function listening(t: Test, settings: Record<string, string | number> = {}) {
  const { app } = await buildService(t, { RATE_LIMIT_MAX: 100_000, ...settings })
  await app.listen({ port: 0, host: '127.0.0.1' })
  return (app.server.address() as { port: number }).port
}

interface Sent {
  readonly answer: string
  readonly error: string | undefined
}

/** Sends all of it and only then begins to read, as most clients do; resolves once `until` has come or the end. */
function send(t: Test, port: number, head: string, body: readonly Buffer[], until = /"instance":"[^"]*"|"error"/) {
  return new Promise<Sent>(resolve => {
    const socket: Socket = connect(port, '127.0.0.1')
    let answer = ''
    let error: string | undefined
    t.teardown(() => socket.destroy())
    const over = () => {
      resolve({ answer, error })
      socket.destroy()
    }
    socket.on('error', ({ code, message }: NodeJS.ErrnoException) => (error ??= code ?? message))
    socket.on('close', over)
    const read = () =>
      socket.on('data', data => {
        answer += data
        if (until.test(answer)) over()
      })
    const write = (index: number): void => {
      const piece = index === 0 ? head : body[index - 1]
      if (piece === undefined) read()
      else if (socket.destroyed) over()
      else socket.write(piece, () => write(index + 1))
    }
    socket.on('connect', () => write(0))
  })
}

const head = (line: string, ...fields: string[]) => `${[`${line} HTTP/1.1`, 'host: a', ...fields].join('\r\n')}\r\n\r\n`
const pieces = (mebibytes: number) => Array.from({ length: mebibytes * 4 }, () => Buffer.alloc(MIB / 4, ' '))
const chunks = (mebibytes: number) => [
  ...pieces(mebibytes).flatMap(piece => [Buffer.from(`${piece.length.toString(16)}\r\n`), piece, Buffer.from('\r\n')]),
  Buffer.from('0\r\n\r\n'),
]

const json = 'content-type: application/json'
const length = (mebibytes: number) => `content-length: ${mebibytes * MIB}`
const chunked = 'transfer-encoding: chunked'

t.test('a client that reads once it has sent everything sees why it was refused', async t => {
  const port = await listening(t)
  const refusals: readonly (readonly [string, string, readonly Buffer[]])[] = [
    ['413', head('POST /v1/predict', json, length(6)), pieces(6)],
    ['413', head('POST /v1/predict', json, chunked), chunks(6)],
    ['413', head('POST /v1/predict', json, length(6), 'connection: close'), pieces(6)],
    ['413', head('POST /v1/predict', json, chunked, 'connection: close'), chunks(6)],
    ['413', head('POST /v2/models/iris/infer', json, length(20)), pieces(20)],
    ['413', head('POST /v2/models/iris/infer', length(6), 'connection: close'), pieces(6)],
    ['415', head('POST /v1/predict', 'content-type: text/plain', length(6)), pieces(6)],
    ['415', head('POST /v2/models/iris/infer', 'content-type: text/plain', chunked), chunks(6)],
    ['404', head('POST /v1/nothing', json, length(6)), pieces(6)],
    ['405', head('PUT /v1/predict', json, length(6), 'connection: close'), pieces(6)],
  ]
  for (const [status, request, body] of refusals) {
    const sent = await Promise.all(Array.from({ length: 5 }, () => send(t, port, request, body)))
    const [line] = request.split('\r\n')
    for (const { answer, error } of sent) {
      t.equal(error, undefined, `${line}: no error while sending`)
      t.equal(answer.slice(9, 12), status, `${line}: ${answer.slice(0, 200)}`)
    }
  }
})

t.test('the connection of a refused body takes the next request', async t => {
  const port = await listening(t)
  const next = 'GET /health/live HTTP/1.1\r\nhost: a\r\n\r\n'
  const body = [...pieces(2), Buffer.from(next)]
  const { answer, error } = await send(t, port, head('POST /v1/predict', json, length(2)), body, /"live"/)
  t.equal(error, undefined)
  t.match(answer, /^HTTP\/1.1 413 [\s\S]*HTTP\/1.1 200 OK[\s\S]*"status":"live"/)
})

t.test('what is thrown away of a body has an end', async t => {
  const port = await listening(t, { BODY_LIMIT: 1024 })
  for (const [framing, body] of [
    [length(64), pieces(64)],
    [chunked, chunks(64)],
  ] as const) {
    const { error } = await send(t, port, head('POST /v1/predict', json, framing), body, /never/)
    t.match(error, /EPIPE|ECONNRESET/, framing)
  }
})

t.test('what is refused by its headers is answered before its body is sent', async t => {
  const port = await listening(t, { ADMIN_TOKEN: 'token' })
  const refused: readonly (readonly [string, string])[] = [
    ['404', 'POST /v1/nothing'],
    ['404', 'PUT /nothing'],
    ['404', 'POST /v2/nothing'],
    ['404', 'DELETE /v2/models/iris/nothing'],
    ['404', 'POST /docs/nothing'],
    ['405', 'PUT /v1/predict'],
    ['405', 'PUT /v2/models/iris/infer'],
    ['401', 'POST /v1/admin/reload'],
  ]
  for (const [status, line] of refused) {
    const { answer } = await send(t, port, head(line, json, length(1)), [])
    t.equal(answer.slice(9, 12), status, line)
  }
})
