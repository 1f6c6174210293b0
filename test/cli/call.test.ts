import { createServer, type IncomingMessage, type ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import t, { type Test } from 'tap'
import { buildService, runProgram } from '../support/build.js'
import { cli } from '../support/cli.js'

type Event = Readonly<Record<string, unknown>>

/** Runs the client to its end. */
async function client(t: Test, ...args: string[]) {
  const { code, stdout, stderr } = await runProgram(t, 'cli', ['call', ...args]).ended
  const events = args.includes('--json')
    ? (stdout
        .trim()
        .split('\n')
        .map(line => JSON.parse(line)) as Event[])
    : []
  return {
    code,
    stdout,
    stderr,
    events,
    answers: events.filter(({ event }) => event === 'answer'),
    summary: events.at(-1),
  }
}

async function serve(t: Test, settings: Record<string, string | number> = {}) {
  const { app } = await buildService(t, settings)
  await app.listen({ host: '127.0.0.1', port: 0 })
  return `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
}

/** A server that misbehaves before it answers. */
async function odd(t: Test, behave: (count: number, request: IncomingMessage, response: ServerResponse) => void) {
  let count = 0
  const server = createServer((request, response) => behave(count++, request, response)).listen(0, '127.0.0.1')
  t.teardown(() => server.close())
  await new Promise(resolve => server.once('listening', resolve))
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
}

t.test('all predictions are answered over several windows, each wait as long as Retry-After says', async t => {
  const url = await serve(t, { RATE_LIMIT_MAX: 3, RATE_LIMIT_WINDOW: '2s' })
  const { code, answers, summary } = await client(t, '--url', url, '--requests', '8', '--json')
  t.equal(code, 0)
  t.match(summary, { event: 'summary', requests: 8, answered: 8, failed: 0 })
  const denied = answers.filter(({ status }) => status === 429)
  t.ok(denied.length >= 2)
  for (const { waitSeconds } of denied) t.ok(waitSeconds === 1 || waitSeconds === 2)
  t.equal(answers.filter(({ status }) => status === 200).length, 8)
  t.match(answers[0], { request: 1, attempt: 1, status: 200, limit: 3, remaining: 2, predictions: [{ label: String }] })
})

t.test('for people, a line for each answer and a summary', async t => {
  const url = await serve(t, { RATE_LIMIT_MAX: 2, RATE_LIMIT_WINDOW: '3s' })
  const { code, stdout } = await client(t, '--url', url, '--requests', '3', '--model', 'iris')
  t.equal(code, 0)
  t.match(stdout, /^1\/3 {2}200 {2}virginica .* 1 of 2 left, more in 3 s/m)
  t.match(stdout, /^3\/3 {2}429 .*; again in [123] s$/m)
  t.match(stdout, /^3 of 3 answered, 0 failed; 4 tries/m)
})

t.test('dropped connections and overload are said, and tried again', async t => {
  const url = await odd(t, (count, request, response) => {
    if (count === 0) request.socket.destroy()
    else if (count === 1) response.writeHead(503, { 'retry-after': '1' }).end('{"detail":"overloaded"}')
    else
      response.writeHead(200, { 'content-type': 'application/json' }).end('{"predictions":[{"label":"yes","score":1}]}')
  })
  const { code, answers } = await client(t, '--url', url, '--requests', '1', '--body', '{}', '--json')
  t.equal(code, 0)
  t.match(answers, [
    { status: 0, reason: 'connection dropped', waitSeconds: 0.5 },
    { status: 503, reason: 'overloaded', waitSeconds: 1 },
    { status: 200, predictions: [{ label: 'yes', score: 1 }] },
  ])
})

t.test('a refused connection is said, and given up after as many retries as were asked for', async t => {
  const { app } = await buildService(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const closed = `http://127.0.0.1:${(app.server.address() as AddressInfo).port}`
  await app.close()
  const { code, stdout } = await client(t, '--url', closed, '--requests', '2', '--retries', '1', '--body', '{}')
  t.equal(code, 1)
  t.equal(stdout.match(/--- {2}connection refused/g)?.length, 4)
  t.match(stdout, /0 of 2 answered, 2 failed/)
})

t.test('a server that never answers is given up in time', async t => {
  const url = await odd(t, () => {})
  const args = ['--url', url, '--requests', '1', '--retries', '0', '--timeout', '300', '--body', '{}', '--json']
  const { code, answers } = await client(t, ...args)
  t.equal(code, 1)
  t.match(answers, [{ status: 0, reason: 'no answer in time' }])
})

t.test('what cannot get better is not tried again', async t => {
  const url = await serve(t)
  const { code, answers } = await client(t, '--url', url, '--requests', '2', '--body', '{"model":"rose"}', '--json')
  t.equal(code, 1)
  t.match(answers, [{ status: 404, reason: /no model 'rose'/ }, { status: 404 }])
  t.equal(answers.length, 2)
})

t.test('wrong options are named, and --help tells what there is', async t => {
  for (const args of [['--requests', '0'], ['--url', 'ftp://x'], ['--nothing'], ['--body', '@/no/such/file']]) {
    const { code, stderr } = await client(t, ...args)
    t.equal(code, 2, args.join(' '))
    t.match(stderr, args[0] as string)
    t.notMatch(stderr, /^\s+at /m)
  }
  const { code, stdout } = await client(t, '--help')
  t.equal(code, 0)
  t.match(stdout, /--requests <n>/)
})

t.test('rows of your own are asked once, and each prediction is shown whole', async t => {
  const url = await serve(t)
  const rows = '[[5.1,3.5,1.4,0.2],[6.2,2.8,4.8,1.8]]'
  const folder = t.testdir({ 'rows.json': rows })
  for (const given of [rows, `@${folder}/rows.json`, '-']) {
    const args = ['call', '--url', url, '--model', 'iris', '--features', given]
    const { code, stdout } = await cli(args, { input: rows })
    t.equal(code, 0, given)
    t.match(stdout, /^ {2}1 {2}setosa +0\.\d{4} {2}\{"probabilities":\[/m)
    t.match(stdout, /^ {2}2 {2}virginica +0\.\d{4} /m)
    t.match(stdout, /^1 of 1 answered/m)
  }
})

t.test('programs get each prediction with its outputs', async t => {
  const url = await serve(t)
  const input = '{"model":"iris","features":[5.1,3.5,1.4,0.2]}'
  const { code, stdout } = await cli(['call', '--url', url, '--body', '-', '--json'], { input })
  t.equal(code, 0)
  const [answer] = stdout.split('\n')
  t.match(JSON.parse(answer ?? ''), { predictions: [{ label: 'setosa', outputs: { probabilities: [Number] } }] })
})

t.test('features that are no JSON, and two kinds of input at once, are refused', async t => {
  for (const args of [
    ['--features', 'setosa'],
    ['--features', '[1]', '--body', '{}'],
  ]) {
    const { code, stderr } = await cli(['call', ...args])
    t.equal(code, 2, args.join(' '))
    t.match(stderr, /^error: --features/)
  }
})

t.test('on a terminal there is a bar that counts the wait, and a table at the end', async t => {
  const url = await serve(t, { RATE_LIMIT_MAX: 2, RATE_LIMIT_WINDOW: '4s' })
  const args = ['call', '--url', url, '--model', 'iris', '--requests', '3']
  const { code, stdout } = await cli(args, { terminal: true, env: { NO_COLOR: '1' } })
  t.equal(code, 0)
  t.match(stdout, /█+░+ 2\/3 waiting \d s/)
  for (const number of [1, 2, 3]) t.match(stdout, new RegExp(`${number}/3  200  virginica`), `line ${number} is there`)
  t.match(stdout, /│ 200 +│ answered +│ +3 │ +75\.0% │/)
  t.match(stdout, /│ 429 +│ quota or overload +│ +1 │/)
  t.match(stdout, /3 of 3 answered/)
})

t.test('there are colours on a terminal, and none with NO_COLOR or in a pipe', async t => {
  const url = await serve(t)
  const args = ['call', '--url', url, '--requests', '1']
  const green = '\u001b[32m'
  t.match((await cli(args, { terminal: true })).stdout, green)
  t.notMatch((await cli(args, { terminal: true, env: { NO_COLOR: '1' } })).stdout, green)
  t.notMatch((await cli(args)).stdout, '\u001b')
  t.match((await cli(args, { env: { FORCE_COLOR: '1' } })).stdout, green)
})
