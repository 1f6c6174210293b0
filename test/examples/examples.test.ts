/**
 * Starts every example as a user would, and runs the `curl` lines of its first comment: `# 200 429, name: value` behind
 * one are the statuses it gets, and headers (or `body`) of the last answer.
 */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { WebSocket } from 'undici'
import { builtPackage } from '../docs/built-package.js'
import { root } from '../docs/markdown.js'

interface Trial {
  readonly line: string
  readonly urls: readonly string[]
  readonly method: string
  readonly headers: Readonly<Record<string, string>>
  readonly body: string | undefined
  /** At the same time (`-Z`), and not one after the other. */
  readonly parallel: boolean
  readonly statuses: readonly number[]
  /** Of the last answer: a header, or `body`. */
  readonly expected: readonly (readonly [name: string, value: string])[]
}

const examples = readdirSync(new URL('examples/', root)).filter(name => name.endsWith('.js'))
const sources = new Map(examples.map(name => [name, readFileSync(new URL(`examples/${name}`, root), 'utf8')]))
const folder = t.testdir({
  // A package of its own, so that no two runs count together in one Redis.
  'package.json': JSON.stringify({ name: `examples-${randomUUID()}`, type: 'module' }),
  node_modules: builtPackage(),
  ...Object.fromEntries(sources),
})

for (const [name, source] of sources) {
  t.test(`${name} does what its comment says`, async t => {
    const trials = trialsOf(source)
    t.ok(trials.length > 0, 'has lines to try')
    const origin = await start(t, join(folder, name))
    for (const trial of trials) await attempt(t, origin, trial)
  })
}

t.test('websocket.js answers the fourth message with the time to wait', async t => {
  const origin = await start(t, join(folder, 'websocket.js'))
  const socket = new WebSocket(origin.replace('http', 'ws'))
  t.teardown(() => socket.close())
  await new Promise(resolve => socket.addEventListener('open', resolve))
  const answers: string[] = []
  const all = new Promise<void>(resolve => {
    socket.addEventListener('message', ({ data }) => {
      if (answers.push(`${data}`) === 4) resolve()
    })
  })
  for (const text of ['a', 'b', 'c', 'd']) socket.send(text)
  await all
  t.strictSame(answers.slice(0, 3), ['echo a', 'echo b', 'echo c'])
  t.match(answers[3], /^wait (9|10) s$/)
})

t.test('the list of examples has all of them', async t => {
  const list = readFileSync(new URL('examples/README.md', root), 'utf8')
  const listed = [...list.matchAll(/\]\(([^)]*)\)/g)].map(([, name]) => name)
  t.strictSame(listed.sort(), examples.sort())
})

async function attempt(t: Test, origin: string, trial: Trial): Promise<void> {
  const { method, headers, body, parallel } = trial
  const ask = async (path: string) => {
    const init = { method, headers, ...(body !== undefined && { body }) }
    const response = await fetch(origin + path, init)
    return { status: response.status, headers: response.headers, body: await response.text() }
  }
  const answers: Awaited<ReturnType<typeof ask>>[] = []
  if (parallel) answers.push(...(await Promise.all(trial.urls.map(ask))))
  else for (const url of trial.urls) answers.push(await ask(url))
  const statuses = answers.map(({ status }) => status)
  t.strictSame(parallel ? statuses.sort() : statuses, trial.statuses, trial.line)
  const last = answers.at(-1)
  for (const [name, value] of trial.expected) {
    if (name === 'body') t.equal(last?.body, value)
    else if (name === 'retry-after') t.ok(Math.abs(Number(last?.headers.get(name)) - Number(value)) <= 5, name)
    else t.equal(last?.headers.get(name), value, name)
  }
}

/** Starts an example on a free port, and stops it with the test. */
async function start(t: Test, file: string): Promise<string> {
  const env = { ...process.env, PORT: '0', NODE_OPTIONS: '' }
  const child = spawn(process.execPath, [file], { stdio: ['ignore', 'pipe', 'pipe'], env })
  t.teardown(() => stop(child))
  let output = ''
  child.stderr.on('data', data => (output += data))
  return new Promise((resolve, reject) => {
    child.stdout.on('data', data => {
      output += data
      const address = /Server listening at (http:[^"]*)"/.exec(output)
      if (address !== null) resolve(address[1] as string)
    })
    child.on('exit', () => reject(new Error(`${file} has ended\n${output}`)))
  })
}

function stop(child: ChildProcess): Promise<void> {
  return new Promise(resolve => {
    if (child.exitCode !== null || child.signalCode !== null) resolve()
    child.on('exit', () => resolve())
    child.kill()
  })
}

function trialsOf(source: string): Trial[] {
  const comment = source.slice(0, source.indexOf('*/'))
  return [...comment.matchAll(/^ \* +(curl .*?) +# (.*)$/gm)].map(([, line, claims]) =>
    trialOf(line ?? '', claims ?? ''),
  )
}

/** The few options of curl that the examples need. */
function trialOf(line: string, claims: string): Trial {
  const words = [...line.matchAll(/'([^']*)'|(\S+)/g)].map(([, quoted, plain]) => quoted ?? plain ?? '').slice(1)
  const headers: Record<string, string> = {}
  let urls: string[] = []
  let method = 'GET'
  let body: string | undefined
  let parallel = false
  for (let word = words.shift(); word !== undefined; word = words.shift()) {
    if (word === '-i' || word === '--parallel-immediate') continue
    if (word === '-Z') parallel = true
    else if (word === '-X') method = words.shift() ?? ''
    else if (word === '-H') {
      const [name = '', value = ''] = (words.shift() ?? '').split(': ')
      headers[name] = value
    } else if (word === '--json') {
      body = words.shift()
      headers['content-type'] = 'application/json'
      method = 'POST'
    } else if (word.startsWith('localhost:3000/')) urls = globbed(word.slice('localhost:3000'.length))
    else throw new Error(`${line}: ${word} is not known to this test`)
  }
  const [statuses = '', ...rest] = claims.split(/, (?=[a-z-]+: )/)
  return {
    ...{ line, urls, method, headers, body, parallel },
    statuses: statuses.split(' ').map(Number),
    expected: rest.map(claim => [claim.slice(0, claim.indexOf(': ')), claim.slice(claim.indexOf(': ') + 2)] as const),
  }
}

/** `/?[1-3]` is `/?1`, `/?2`, `/?3`. */
function globbed(url: string): string[] {
  const range = /\[(\d+)-(\d+)\]/.exec(url)
  if (range === null) return [url]
  const [glob, from, to] = range
  const length = Number(to) - Number(from) + 1
  return Array.from({ length }, (_, index) => url.replace(glob, String(Number(from) + index)))
}
