/**
 * Runs the code of predictions and refusals before the service is ready, so that the first surge meets compiled code. All
 * of it happens in an app of its own: the same front, hooks and routes, with limits and metrics that end with it, no log,
 * and a model that runs nothing. So nothing is charged, counted or logged.
 */
import { connect, type Socket } from 'node:net'
import type { FastifyInstance } from 'fastify'
import { buildPredictions } from './app.js'
import type { Config } from './config.js'
import { Overloaded } from './inference/errors.js'
import type { Model, Models } from './inference/types.js'

/** All of it takes no longer (ms), its own end included. */
const MOST_MS = 250
/** What is left of that for its end. */
const END_MS = 30

/** Parts of the time: predictions, requests over their quota, requests for which there is no room. */
const PARTS = { predicting: 0.5, denied: 0.25, shed: 0.25 } as const
type Part = keyof typeof PARTS

const SOCKETS = 8
/** What each caller may ask for. Who predicts is another caller in time; who is to be denied asks for more. */
const QUOTA = 20
/** So many answers later, a connection on which all is refused is read in front of the parser. */
const ANSWERS_BEFORE_FRONT = QUOTA + 12
/** Requests that are handed over at once: as many as are answered within the buffer of a socket. */
const AT_ONCE = 16

const HOST = '127.0.0.1'

/** Resolves when it is over; never rejects, since the service is as good without it. `isStopping`: whether to end early. */
export async function warmUp(config: Config, isStopping: () => boolean): Promise<void> {
  const until = performance.now() + MOST_MS - END_MS
  const model = new PaperModel()
  let app: FastifyInstance | undefined
  const clients: Socket[] = []
  // Whoever waits for an answer then waits no longer.
  const timer = setTimeout(() => clients.forEach(end), MOST_MS - END_MS)
  /** The server's ends of connections, by the ports of the other ends. */
  const ends = new Map<number, Socket>()
  try {
    app = await buildPredictions(inert(config), modelsOf(model))
    app.server.on('connection', (socket: Socket) => ends.set(socket.remotePort as number, socket))
    await app.listen({ host: HOST, port: 0, listenTextResolver: () => '' })
    const { port } = app.server.address() as { port: number }
    const open = () => {
      const socket = connect({ host: HOST, port, noDelay: true })
      clients.push(socket)
      return socket
    }
    let partEnds = performance.now()
    const whole = Math.max(0, until - partEnds)
    const isOver = () => isStopping() || performance.now() > partEnds
    for (const [name, part] of Object.entries(PARTS) as [Part, number][]) {
      partEnds += part * whole
      model.isFull = name === 'shed'
      let asked = 0
      const next = () => requestOf(name, asked++)
      if (name === 'predicting') {
        const loops = Array.from({ length: SOCKETS }, () => ask(open(), () => (isOver() ? undefined : next())))
        await Promise.all(loops)
        continue
      }
      const socket = open()
      await ask(socket, () => (isOver() || asked >= ANSWERS_BEFORE_FRONT ? undefined : next()))
      socket.resume()
      const atServer = ends.get(socket.localPort as number)
      if (atServer !== undefined) await pump(atServer, Buffer.from(next()), isOver)
    }
  } catch {
    // Such as a machine without a loopback address.
  } finally {
    clearTimeout(timer)
    clients.forEach(end)
    await app?.close().catch(() => {})
  }
}

const end = (socket: Socket): void => {
  socket.destroy()
}

/** Has a connection read a request many times, as if it had arrived: for less than it takes to send it. */
async function pump(socket: Socket, request: Buffer, isOver: () => boolean): Promise<void> {
  while (!isOver() && !socket.destroyed) {
    socket.cork()
    for (let i = 0; i < AT_ONCE; i++) socket.emit('data', request)
    socket.uncork()
    await new Promise(setImmediate)
  }
}

/** The settings with which the same code runs, and nothing of it is to be seen. */
function inert(config: Config): Config {
  return {
    ...config,
    logLevel: 'silent',
    redis: undefined,
    limitsFile: undefined,
    rateLimit: { max: QUOTA, windowMs: 3_600_000 },
    keys: { ...config.keys, isGiven: false },
    tracing: undefined,
    trustProxy: [HOST],
    maxConnections: undefined,
    webProcesses: 1,
    corsOrigins: [],
  }
}

const BODY = JSON.stringify({ features: Array.from({ length: 64 }, (_, index) => index / 8) })

function requestOf(part: Part, count: number): string {
  const caller = part === 'predicting' ? Math.floor(count / QUOTA) % 250 : part === 'denied' ? 250 : 251
  const head = ['POST /v1/predict HTTP/1.1', `host: ${HOST}`, `x-forwarded-for: 203.0.113.${caller}`]
  const ofBody = ['content-type: application/json', `content-length: ${BODY.length}`]
  return `${[...head, ...ofBody].join('\r\n')}\r\n\r\n${BODY}`
}

/** Asks one after the other, until there is nothing more to ask. */
function ask(socket: Socket, next: () => string | undefined): Promise<void> {
  return new Promise((resolve, reject) => {
    const send = () => {
      const text = next()
      if (text === undefined) resolve()
      else socket.write(text, 'latin1')
    }
    let answer = ''
    socket.on('connect', send)
    socket.on('error', reject)
    socket.on('close', () => resolve())
    socket.on('data', chunk => {
      answer += chunk.toString('latin1')
      const head = answer.indexOf('\r\n\r\n')
      const length = Number(/content-length: (\d+)/i.exec(answer)?.[1])
      if (head < 0 || answer.length < head + 4 + length) return
      answer = ''
      send()
    })
  })
}

/** A model of 64 numbers that runs nothing, and has room or none as it is told. */
class PaperModel implements Model {
  isFull = false
  readonly info: Model['info'] = {
    name: 'paper',
    version: '1',
    inputs: [{ name: 'x', datatype: 'FP32', shape: ['rows', 64] }],
    outputs: [{ name: 'y', datatype: 'FP32', shape: ['rows', 1] }],
    sample: { features: [0] },
    batching: 'dynamic',
  } as unknown as Model['info']
  readonly #json = new TextEncoder().encode('{"model":"paper","version":"1","predictions":[{"outputs":{"y":[0]}}]}')

  async run(): ReturnType<Model['run']> {
    return { outputs: {}, json: this.#json, queueMs: 0, computeMs: 0, computeShareMs: 0, batchRows: 1 }
  }

  refusalOf(): Error | undefined {
    return this.isFull ? new Overloaded('limit', 'no room', 100) : undefined
  }
}

const modelsOf = (model: Model): Models => ({
  list: () => [model],
  versions: () => [model],
  get: () => model,
  broken: [],
  queueRows: 0,
  ready: true,
  reload: async () => ({ loaded: [], unchanged: [], removed: [], broken: [] }),
  close: async () => {},
})
