/** The proxy of deploy/proxy as a process, the servers behind it, and the name server that tells where they are. */
import { type ChildProcess, spawn } from 'node:child_process'
import { createSocket } from 'node:dgram'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { request as httpRequest } from 'node:http'
import { connect, createServer } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { childEnv } from './child-env.js'
import { findProgram } from './program.js'
import { freePort, until } from './redis-fleet.js'

const START = fileURLToPath(new URL('../../deploy/proxy/start.sh', import.meta.url))

const REPLICA = fileURLToPath(new URL('stand-in.mjs', import.meta.url))

/** False where nginx is installed, else why tests of the proxy are skipped. */
export const NO_NGINX =
  findProgram(['nginx'], 'nginx-light') === undefined ? 'nginx is not installed (Debian: apt-get install nginx)' : false

/** Variables of start.sh. */
export type Settings = Readonly<Record<string, string | number>>

export interface ProxyProcess {
  readonly url: string
  /** The folder that it writes to. */
  readonly dir: string
  /** What nginx has logged. */
  log(): string
}

/** Starts the proxy as it is shipped, on a free port. Resolves when it listens; it ends with the test. */
export async function startProxy(t: Test, settings: Settings): Promise<ProxyProcess> {
  const dir = mkdtempSync(join(tmpdir(), 'proxy-'))
  const port = await freePort()
  const { child, output, ended } = runProxy({ ...settings, PROXY_LISTEN: `127.0.0.1:${port}`, PROXY_DIR: dir })
  t.teardown(async () => {
    child.kill('SIGTERM')
    await ended
    rmSync(dir, { recursive: true, force: true })
  })
  const url = `http://127.0.0.1:${port}`
  await until('the proxy answers', async () => {
    if (child.exitCode !== null) throw new Error(output())
    return (await fetch(`${url}/metrics`)).status === 404
  })
  return { url, dir, log: output }
}

/** The start script by itself, with nothing but these variables. */
export function runProxy(settings: Settings) {
  const texts = Object.fromEntries(Object.entries(settings).map(([name, value]) => [name, `${value}`]))
  const child = spawn('sh', [START], { env: childEnv(texts), stdio: ['ignore', 'pipe', 'pipe'] })
  let text = ''
  for (const stream of [child.stdout, child.stderr]) stream.on('data', data => (text += data))
  return { child: child as ChildProcess, output: () => text, ended: once(child, 'close') }
}

/** A name server for one name, whose addresses may change. Resolves with what to change and where it listens. */
export async function startNameServer(t: Test, name: string, addresses: readonly string[]) {
  let known = addresses
  const socket = createSocket('udp4')
  socket.on('message', (question, { port, address }) => socket.send(answerTo(question, name, known), port, address))
  socket.bind(0, '127.0.0.1')
  await once(socket, 'listening')
  t.teardown(() => socket.close())
  return {
    resolver: `127.0.0.1:${socket.address().port} valid=1s ipv6=off`,
    move: (to: readonly string[]) => {
      known = to
    },
  }
}

/** RFC 1035: the header, the question as it came, and an A record for each address. */
function answerTo(question: Buffer, name: string, addresses: readonly string[]): Buffer {
  const end = question.indexOf(0, 12) + 5
  const labels: string[] = []
  for (let at = 12; question[at] !== 0; at += (question[at] as number) + 1) {
    labels.push(question.toString('latin1', at + 1, at + 1 + (question[at] as number)))
  }
  const isKnown = labels.join('.') === name && question.readUInt16BE(end - 4) === 1
  const header = Buffer.from(question.subarray(0, 12))
  header.writeUInt16BE(isKnown ? 0x8580 : 0x8583, 2)
  for (const [offset, count] of [1, isKnown ? addresses.length : 0, 0, 0].entries())
    header.writeUInt16BE(count, 4 + 2 * offset)
  const records = isKnown
    ? addresses.map(address => Buffer.from([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 1, 0, 4, ...address.split('.').map(Number)]))
    : []
  return Buffer.concat([header, question.subarray(12, end), ...records])
}

export interface Replica {
  readonly host: string
  readonly port: number
  readonly pid: number
  /** SIGSTOP freezes it, SIGCONT wakes it. */
  signal(name: NodeJS.Signals): void
  /** Ends it without a farewell. */
  kill(): Promise<void>
}

/** A stand-in for a replica, as a process of its own, on a free port unless it is given one. */
export async function startReplica(t: Test, host = '127.0.0.1', port = 0, backlog = 511): Promise<Replica> {
  const child = spawn(process.execPath, [REPLICA, host, `${port}`, `${backlog}`], {
    env: childEnv(),
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = once(child, 'exit')
  const kill = async () => {
    child.kill('SIGKILL')
    await ended
  }
  t.teardown(kill)
  const [line] = (await once(child.stdout, 'data')) as [Buffer]
  return { host, port: Number(line), pid: child.pid as number, signal: name => void child.kill(name), kill }
}

/** Freezes a replica that was started with a backlog of 1, so that a connection to it comes to nothing, as if it was gone. */
export async function vanish(t: Test, replica: Replica): Promise<void> {
  replica.signal('SIGSTOP')
  for (;;) {
    const socket = connect(replica.port, replica.host)
    socket.on('error', () => {})
    t.teardown(() => socket.destroy())
    const late = new Promise(resolve => setTimeout(resolve, 1000, 'late'))
    if ((await Promise.race([once(socket, 'connect'), late])) === 'late') return
  }
}

/** A replica that takes each connection, reads what comes and hangs up. Resolves with where it listens and its count. */
export async function startHangingUp(t: Test): Promise<{ address: string; requests(): number }> {
  let requests = 0
  const server = createServer(socket => {
    socket.on('error', () => {})
    socket.once('data', () => {
      requests++
      socket.destroy()
    })
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  t.teardown(() => server.close())
  return { address: `127.0.0.1:${(server.address() as { port: number }).port}`, requests: () => requests }
}

export interface Outcome {
  /** Undefined where the connection broke. */
  readonly status: number | undefined
  readonly code: string | undefined
  /** Which replica answered. */
  readonly replica: number | undefined
  readonly ms: number
}

/** Requests in flight at most, so that a machine that is busy with other things is asked less often. */
const MAX_IN_FLIGHT = 32

/** Requests that are sent all the time, so many a second. */
export class Load {
  readonly #sent: Promise<Outcome>[] = []
  readonly #answeredBy = new Map<number, number>()
  readonly #timer: NodeJS.Timeout
  #inFlight = 0

  constructor(perSecond: number, send: () => Promise<Response>) {
    this.#timer = setInterval(() => {
      if (this.#inFlight < MAX_IN_FLIGHT) this.#sent.push(this.#send(send))
    }, 1000 / perSecond)
  }

  async #send(send: () => Promise<Response>): Promise<Outcome> {
    this.#inFlight++
    const outcome = await outcomeOf(send)
    this.#inFlight--
    const { replica } = outcome
    if (replica !== undefined) this.#answeredBy.set(replica, this.answersOf(replica) + 1)
    return outcome
  }

  /** How many requests were sent. */
  get sent(): number {
    return this.#sent.length
  }

  /** How many requests the replica with this process id has answered. */
  answersOf(pid: number): number {
    return this.#answeredBy.get(pid) ?? 0
  }

  /** Sends no more; resolves with what became of each request. */
  async end(): Promise<Outcome[]> {
    clearInterval(this.#timer)
    return Promise.all(this.#sent)
  }
}

export async function outcomeOf(send: () => Promise<Response>): Promise<Outcome> {
  const began = performance.now()
  const passed = () => performance.now() - began
  try {
    const response = await send()
    const { code, replica } = (await response.json()) as { code?: string; replica?: number }
    return { status: response.status, code, replica, ms: passed() }
  } catch {
    return { status: undefined, code: undefined, replica: undefined, ms: passed() }
  }
}

/** Requests that were not answered by a replica. */
export const lost = (outcomes: readonly Outcome[]): Outcome[] => outcomes.filter(({ status }) => status !== 200)

/**
 * Sends a body of `bytes` to `/v1/predict`, with or without saying before how long it is. Resolves with the answer, which
 * comes before the body has been sent.
 */
export function sendLongBody(url: string, bytes: number, chunked: boolean) {
  return new Promise<{ status: number; type: string | undefined; body: string }>((resolve, reject) => {
    const headers = { 'content-type': 'application/json', ...(chunked ? {} : { 'content-length': bytes }) }
    const request = httpRequest(`${url}/v1/predict`, { method: 'POST', headers, agent: false }, response => {
      let body = ''
      response.on('data', data => (body += data))
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, type: response.headers['content-type'], body })
        request.destroy()
      })
    })
    let answered = false
    request.on('response', () => (answered = true))
    request.on('error', error => answered || reject(error))
    request.end(Buffer.alloc(bytes, 0x20))
  })
}
