import { type ClientRequest, type IncomingMessage, request } from 'node:http'
import { connect } from 'node:net'
import { setTimeout as delay } from 'node:timers/promises'
import { gzipSync } from 'node:zlib'
import t, { type Test } from 'tap'
import { Cancelled, Overloaded } from '../../service/src/inference/errors.js'
import type { Model, Models } from '../../service/src/inference/types.js'
import { buildService } from '../support/build.js'
import { onePlan } from '../support/limits-file.js'
import { floats, model, node } from '../support/onnx-builder.js'
import { openFolder } from '../support/onnx-folder.js'

t.setTimeout(300_000)

const REQUESTS = { name: 'requests', limit: 1000, window: '1 minute' }
const HEADER = 'sepal_length,sepal_width,petal_length,petal_width\n'
const rowOf = (i: number): readonly number[] => [5 + (i % 7) / 10, 3 + (i % 5) / 10, 1 + (i % 50) / 10, (i % 25) / 10]
const csvOf = (rows: number): string =>
  HEADER + Array.from({ length: rows }, (_, i) => `${rowOf(i).join(',')}\n`).join('')

async function listening(t: Test, settings: Record<string, string | number> = {}, models?: Models) {
  const service = await buildService(t, { RATE_LIMIT_MAX: 10_000, ...settings }, models)
  await service.app.listen({ port: 0, host: '127.0.0.1' })
  const { port } = service.app.server.address() as { port: number }
  /** A stream to the model: what is written to `sent`, and what came back. */
  const open = (headers: Record<string, string> = {}, model = 'iris') => {
    const sent = request({
      port,
      method: 'POST',
      path: `/v1/models/${model}/predict`,
      headers: { 'content-type': 'text/csv', ...headers },
    })
    const answer = new Promise<IncomingMessage>((resolve, reject) => sent.on('response', resolve).on('error', reject))
    answer.catch(() => {})
    return { sent, answer }
  }
  const send = async (body: string | Buffer, headers: Record<string, string> = {}, model?: string) => {
    const { sent, answer } = open(headers, model)
    sent.end(body)
    return read(await answer)
  }
  return { ...service, open, send }
}

async function read(answer: IncomingMessage) {
  let text = ''
  let isCut = false
  try {
    for await (const piece of answer) text += piece
  } catch {
    isCut = true
  }
  return {
    status: answer.statusCode,
    headers: answer.headers,
    text,
    isCut,
    lines: () =>
      text
        .trim()
        .split('\n')
        .map(line => JSON.parse(line)),
  }
}

/** y = x, so many times. */
const wide = (width: number) =>
  model({
    nodes: [node('MatMul', ['x', 'ones'], ['y'])],
    inputs: [{ name: 'x', type: 1, shape: ['batch', 1] }],
    outputs: [{ name: 'y', type: 1, shape: ['batch', width] }],
    initializers: [floats('ones', new Float32Array(width).fill(1), [1, width])],
  })

const nothing = (sent: ClientRequest) => sent.on('error', () => {})

t.test('a table is answered row by row, in order, as the same rows of JSON are', async t => {
  const { send, predict } = await listening(t)
  const { status, headers, lines } = await send(csvOf(1000))
  t.equal(status, 200)
  t.match(headers['content-type'], 'application/x-ndjson')
  const { predictions } = (
    await predict({ model: 'iris', features: Array.from({ length: 1000 }, (_, i) => rowOf(i)) })
  ).json()
  t.strictSame(lines(), predictions)
  const asLines = Array.from({ length: 1000 }, (_, i) => `${JSON.stringify(rowOf(i))}\n`).join('')
  t.strictSame((await send(asLines, { 'content-type': 'application/x-ndjson' })).lines(), predictions)
  t.strictSame((await send(gzipSync(csvOf(1000)), { 'content-encoding': 'gzip' })).lines(), predictions)
})

t.test('the answer is a table where accept asks for one', async t => {
  const { send } = await listening(t)
  const { text, headers } = await send(csvOf(3), { accept: 'text/csv' })
  t.match(headers['content-type'], 'text/csv')
  const [header, ...rows] = text.trim().split('\n')
  t.equal(header, 'label,score,probabilities[0],probabilities[1],probabilities[2]')
  t.equal(rows.length, 3)
  t.match(rows[0], /^setosa,0\.\d+,0\.\d+/)
})

t.test('each row is charged, and where the quota is used up the stream ends with when to come again', async t => {
  const LIMITS_FILE = onePlan(t, [REQUESTS, { name: 'rows', unit: 'rows', limit: 300, window: '1 minute' }])
  const { send, ask } = await listening(t, { LIMITS_FILE, STREAM_STALL_MS: 1000 })
  const all = (await send(csvOf(500))).lines()
  t.equal(all.length, 301)
  t.match(all[300], { error: { code: 'ML_RATE_QUOTA_EXCEEDED', row: 301, retryAfter: Number } })
  t.match((await ask('/v1/limits')).json(), { policies: [{ name: 'requests' }, { name: 'rows', remaining: 0 }] })
  const { status, text } = await send(csvOf(1))
  t.equal(status, 429, 'with nothing answered so far it is refused as any request is')
  t.match(JSON.parse(text), { code: 'ML_RATE_QUOTA_EXCEEDED', row: 1 })
})

t.test('where quota comes back soon the stream waits for it', async t => {
  const LIMITS_FILE = onePlan(t, [REQUESTS, { name: 'rows', unit: 'rows', limit: 300, window: '1 second' }])
  const { send } = await listening(t, { LIMITS_FILE, STREAM_STALL_MS: 20_000 })
  t.equal((await send(csvOf(700))).lines().filter(({ outputs }) => outputs !== undefined).length, 700)
})

t.test('the headers of a stream tell of its first decision once, and of no wait before it', async t => {
  const ROWS = { name: 'rows', unit: 'rows', limit: 300, window: '1 minute' }
  const { send, predict } = await listening(t, { LIMITS_FILE: onePlan(t, [REQUESTS, ROWS]), SDK_HEADERS: 'openai' })
  await predict({ model: 'iris', features: Array.from({ length: 200 }, (_, i) => rowOf(i)) })
  // One denial of the whole chunk, and then a part of it.
  const { status, headers } = await send(csvOf(100))
  t.equal(status, 200)
  t.equal(headers['retry-after'], undefined)
  t.match(headers, {
    'ratelimit-policy': /^"requests";[^,]*, "rows";[^,]*$/,
    ratelimit: /^"requests";[^,]*, "rows";r=0[^,]*$/,
    'x-ratelimit-remaining': '998',
    'x-ratelimit-remaining-requests': '998',
    'x-ratelimit-remaining-rows': '0',
  })
  t.match((await send(csvOf(100))).headers, {
    'retry-after': /^\d+$/,
    ratelimit: /^"requests";[^,]*, "rows";r=0[^,]*$/,
  })
})

t.test('a stream is one request of each policy in requests, however many rows it has', async t => {
  const CALLS = { name: 'calls', limit: 2, window: '1 minute', models: ['iris'] }
  const { send, ask } = await listening(t, { LIMITS_FILE: onePlan(t, [REQUESTS, CALLS]) })
  t.equal((await send(csvOf(2000))).lines().length, 2000)
  t.match((await ask('/v1/limits')).json(), { policies: [{ name: 'requests' }, { name: 'calls', remaining: 1 }] })
})

t.test('the part of a chunk for which there is quota goes first, in whatever unit it is', async t => {
  const CREDITS = { name: 'credits', unit: 'credits', limit: 1000, window: '1 hour' }
  const LIMITS_FILE = onePlan(t, [REQUESTS, CREDITS], { costs: { iris: { request: 0, row: 10 } } })
  const { send } = await listening(t, { LIMITS_FILE, STREAM_STALL_MS: 1000 })
  t.equal((await send(csvOf(60))).lines().length, 60)
  const lines = (await send(csvOf(100))).lines()
  t.equal(lines.length, 41)
  t.match(lines[40], { error: { code: 'ML_RATE_QUOTA_EXCEEDED', row: 41 } })
})

/** A service whose only model runs like this. */
async function withRun(t: Test, run: Model['run'], settings: Record<string, string | number>) {
  const { info } = (await buildService(t)).models.get('iris')
  const model: Model = { info, run }
  const models: Models = {
    list: () => [model],
    versions: () => [model],
    get: () => model,
    broken: [],
    queueRows: 0,
    ready: true,
    reload: async () => ({ loaded: [], unchanged: [], removed: [], broken: [] }),
    close: async () => {},
  }
  return listening(t, settings, models)
}

t.test('a stream that the service cannot take costs nothing', async t => {
  const LIMITS_FILE = onePlan(t, [REQUESTS, { name: 'rows', unit: 'rows', limit: 300, window: '1 minute' }])
  const { send, ask } = await withRun(
    t,
    async (_inputs, { meter }) => {
      meter?.ended('not-run', 0)
      throw new Overloaded('unserved', 'no worker is up', 1000)
    },
    { LIMITS_FILE },
  )
  t.match(JSON.parse((await send(csvOf(200))).text), { status: 503, code: 'INFERENCE_OVERLOADED', row: 1 })
  t.match((await ask('/v1/limits')).json().policies, [{ remaining: 1000 }, { remaining: 300 }])
})

t.test('rows that wait when their client goes are given back', async t => {
  const LIMITS_FILE = onePlan(t, [REQUESTS, { name: 'rows', unit: 'rows', limit: 1000, window: '1 minute' }])
  const { open, ask } = await withRun(
    t,
    async (_inputs, { meter, signal }) => {
      while (signal?.aborted !== true) await delay(2)
      meter?.ended('not-run', 0)
      throw new Cancelled()
    },
    { LIMITS_FILE },
  )
  const remaining = async () => (await ask('/v1/limits')).json().policies[1].remaining
  const { sent } = open()
  nothing(sent).write(csvOf(500))
  while ((await remaining()) !== 500) await delay(2)
  sent.destroy()
  while ((await remaining()) !== 1000) await delay(2)
  t.match((await ask('/v1/limits')).json().policies, [{ remaining: 999 }, { remaining: 1000 }])
})

t.test('a wrong row is told with its number, behind the answers to those before it', async t => {
  const { send } = await listening(t)
  const lines = (await send(`${csvOf(300)}1,2,three,4\n1,2,3,4\n`)).lines()
  t.equal(lines.length, 301)
  t.match(lines[300], { error: { code: 'INFERENCE_INVALID_INPUT', row: 301, detail: /petal_length/ } })
  const first = await send(`${HEADER}1,2,3\n`)
  t.equal(first.status, 400)
  t.match(JSON.parse(first.text), { code: 'INFERENCE_INVALID_INPUT', row: 1 })
  t.match(JSON.parse((await send('a,b\n1,2\n')).text), {
    status: 400,
    detail: /"a", which is not a feature; the model takes sepal_length/,
  })
  const cut = await send(`${csvOf(300)}1,2\n`, { accept: 'text/csv' })
  t.ok(cut.isCut, 'a table is cut off')
})

t.test('an answer comes as soon as its row does', async t => {
  const { open } = await listening(t, { UPLOAD_TIMEOUT_MS: 1000 })
  const { sent, answer } = open()
  sent.write(HEADER)
  const pieces: string[] = []
  for (let i = 0; i < 6; i++) {
    sent.write(`${rowOf(i).join(',')}\n`)
    if (i === 0) (await answer).on('data', piece => pieces.push(String(piece)))
    while (pieces.join('').split('\n').length - 1 <= i) await delay(5)
    // Together longer than a request has to arrive.
    await delay(300)
  }
  sent.end()
  await new Promise(resolve => answer.then(response => response.on('end', resolve)))
  t.equal(pieces.join('').trim().split('\n').length, 6)
})

t.test('a stream that stands still is ended, with the reason', async t => {
  const { open } = await listening(t, { STREAM_STALL_MS: 500 })
  const { sent, answer } = open()
  nothing(sent).write(csvOf(2))
  const { lines } = await read(await answer)
  t.match(lines()[2], { error: { code: 'STREAM_STALLED', row: 3, detail: /no rows arrived/ } })
  const silent = open()
  nothing(silent.sent).write(HEADER)
  t.match(JSON.parse((await read(await silent.answer)).text), { status: 408, code: 'STREAM_STALLED' })
})

t.test('a client that sends all before it reads gets all', async t => {
  const { open } = await listening(t)
  const { sent, answer } = open()
  const rows = 20_000
  await new Promise<void>(resolve => sent.end(csvOf(rows), () => resolve()))
  await delay(500)
  t.equal((await read(await answer)).lines().length, rows)
})

t.test('an answer that is asked for behind the body begins there, and is not longer than what is held', async t => {
  const { open, send } = await listening(t)
  const headers = { 'x-stream-answer': 'after-body' }
  const { sent, answer } = open(headers)
  sent.write(csvOf(3))
  let began = false
  void answer.then(() => {
    began = true
  })
  // Long after an answer that comes at once is there.
  t.equal((await send(csvOf(1000))).lines().length, 1000)
  t.notOk(began)
  sent.end()
  t.equal((await read(await answer)).lines().length, 3)
  const lines = (await send(`${csvOf(3)}x\n`, headers)).lines()
  t.match(lines[3], { error: { row: 4 } })
  t.ok((await send(`${csvOf(3)}x\n`, { ...headers, accept: 'text/csv' })).isCut)
  t.match(JSON.parse((await send(`${HEADER}x\n`, headers)).text), { status: 400, row: 1 })
  // Each row is answered with 15 kB.
  const { models } = await openFolder(t, { 'wide/1/model.onnx': wide(2500) })
  const { send: sendWide } = await listening(t, {}, models)
  const { status, text } = await sendWide(`x\n${'0.123\n'.repeat(2000)}`, headers, 'wide')
  t.equal(status, 413)
  t.match(JSON.parse(text), { code: 'STREAM_TOO_LARGE', detail: /held back until all rows were read/ })
})

t.test('a stop lets a stream end, and closes its connection behind that', async t => {
  const { app, announceStop } = await listening(t)
  const { port } = app.server.address() as { port: number }
  const socket = connect(port, '127.0.0.1')
  t.teardown(() => socket.destroy())
  let text = ''
  socket.on('data', data => (text += data))
  const ended = new Promise(resolve => socket.on('close', resolve))
  const piece = (rows: string) => `${rows.length.toString(16)}\r\n${rows}\r\n`
  const head = 'host: a\r\ncontent-type: text/csv\r\ntransfer-encoding: chunked\r\n'
  socket.write(`POST /v1/models/iris/predict HTTP/1.1\r\n${head}\r\n${piece(csvOf(1))}`)
  while (!text.includes('"label"')) await delay(2)
  announceStop()
  const closed = app.close()
  socket.write(`${piece(`${rowOf(1).join(',')}\n`)}0\r\n\r\n`)
  await ended
  await closed
  t.equal(text.match(/"label"/g)?.length, 2)
  t.match(text, /\r\n0\r\n\r\n$/, 'with nothing behind the end of the stream')
})

t.test('a stream that is too long, or no gzip, is told so', async t => {
  const { send } = await listening(t, { STREAM_LIMIT: 2000 })
  const lines = (await send(csvOf(1000))).text.trim().split('\n')
  t.match(JSON.parse(lines.at(-1) as string), /./)
  t.match(lines.at(-1), /STREAM_TOO_LARGE/)
  const { text } = await send('no gzip', { 'content-encoding': 'gzip' })
  t.match(JSON.parse(text), { status: 400, code: 'INVALID_GZIP' })
  const half = gzipSync(csvOf(3))
  t.match((await send(half.subarray(0, half.length - 5), { 'content-encoding': 'gzip' })).text, /INVALID_GZIP/)
  t.match(JSON.parse((await send('x', { 'content-type': 'text/csv; charset=latin1' })).text), { status: 415 })
  t.match(JSON.parse((await send('x', { 'content-type': 'text/plain' })).text), { status: 415 })
})

t.test('a client that goes away in between stops its stream, and nothing else', async t => {
  const { open, send, models } = await listening(t)
  for (let i = 0; i < 5; i++) {
    const { sent, answer } = open()
    nothing(sent).write(csvOf(2000))
    await answer
    sent.destroy()
  }
  t.equal((await send(csvOf(2))).lines().length, 2)
  t.equal(models.queueRows, 0)
})

t.test('records, instances and tables of JSON are taken, and shown by the model', async t => {
  const { predict, ask } = await listening(t)
  const wrong = (await predict({ model: 'iris', instances: [[1, 2, 3]] })).json()
  t.match(wrong, { errors: [{ path: 'instances[0]', message: /^has 3 values; a row is 4 numbers$/ }] })
  const record = { sepal_length: 5.1, sepal_width: 3.5, petal_length: 1.4, petal_width: 0.2 }
  const row = [5.1, 3.5, 1.4, 0.2]
  const { predictions } = (await predict({ model: 'iris', features: [row] })).json()
  for (const body of [
    { records: [record] },
    { records: record },
    { instances: [row] },
    { instances: [record] },
    {
      dataframe_split: {
        columns: ['petal_width', 'petal_length', 'sepal_width', 'sepal_length'],
        data: [row.toReversed()],
      },
    },
  ]) {
    const answer = await predict({ model: 'iris', ...body })
    t.equal(answer.statusCode, 200, JSON.stringify(body))
    t.strictSame(answer.json().predictions, predictions)
  }
  t.match((await predict({ model: 'iris', records: [{ ...record, colour: 1 }] })).json(), {
    status: 400,
    errors: [{ path: 'records[0].colour', message: /not a feature; the model takes sepal_length, sepal_width/ }],
  })
  t.match((await predict({ model: 'iris', records: [record], features: row })).json(), { detail: /exclude each other/ })
  t.strictSame((await ask('/v1/models/iris')).json().features, Object.keys(record))
})
