/** `GET /v1/events`: the live figures that the charts of the playground draw. */
import { PassThrough } from 'node:stream'
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import { Refusal, unavailable } from '../http/problem.js'
import { answers } from '../openapi/schemas.js'
import { type Counted, type Sample, type Stats, sampleOf } from '../playground/stats.js'
import { valuesOf } from '../processes/messages.js'
import type { Peers } from '../processes/peers.js'

interface EventOptions {
  readonly stats: Stats
  /** Rows that wait now. */
  readonly queueRows: () => number
  /** The other processes of the service, whose figures are told with these; undefined where this is the only one. */
  readonly peers: Pick<Peers, 'answer' | 'watch'> | undefined
}

/** How often the charts get a point, in milliseconds. */
const INTERVAL_MS = 500
const MAX_LISTENERS = 32
/** A listener that has this much unread is taken for gone, in bytes. */
const MAX_UNREAD = 65_536

const schema = {
  tags: ['Health'],
  summary: 'What the service did in each half second, as server-sent events',
  operationId: 'events',
  response: answers({ success: Type.String(), type: 'text/event-stream', refusals: [503] }),
}

/** Figures of one process. */
interface CountedHere extends Counted {
  readonly queueRows: number
}

export const eventRoutes: FastifyPluginAsync<EventOptions> = async (app, { stats, queueRows, peers }) => {
  const listeners = new Set<PassThrough>()
  let end: (() => void) | undefined
  const here = (): CountedHere => ({ ...stats.take(), queueRows: queueRows() })
  peers?.answer('sample', here)

  const tell = (counted: readonly CountedHere[]) => {
    const sample: Sample = sampleOf(counted)
    const rows = counted.reduce((sum, each) => sum + each.queueRows, 0)
    const text = `data: ${JSON.stringify({ ...sample, queueRows: rows })}\n\n`
    for (const listener of listeners) {
      if (listener.writableLength > MAX_UNREAD) listener.destroy()
      else listener.write(text)
    }
  }
  const leave = (listener: PassThrough) => {
    listeners.delete(listener)
    if (listeners.size > 0) return
    end?.()
    end = undefined
  }
  /** Returns what ends it. */
  const begin = (): (() => void) => {
    if (peers !== undefined) return peers.watch<CountedHere>(answers => tell(valuesOf(answers)))
    // What was counted while nobody listened is not of this moment.
    stats.take()
    const timer = setInterval(() => tell([here()]), INTERVAL_MS).unref()
    return () => clearInterval(timer)
  }

  // A stream that never ends by itself would keep the server from closing.
  app.addHook('preClose', async () => {
    for (const listener of listeners) listener.end()
  })
  app.get('/v1/events', { config: { rateLimit: false }, schema, exposeHeadRoute: false }, (_request, reply) => {
    if (listeners.size >= MAX_LISTENERS) {
      throw new Refusal(unavailable('TOO_MANY_LISTENERS', `${MAX_LISTENERS} listen already`, 10_000))
    }
    const listener = new PassThrough()
    listeners.add(listener)
    listener.once('close', () => leave(listener))
    end ??= begin()
    // The browser asks again this long after a connection is lost.
    listener.write('retry: 2000\n\n')
    return reply.headers({ 'content-type': 'text/event-stream', 'cache-control': 'no-store' }).send(listener)
  })
}
