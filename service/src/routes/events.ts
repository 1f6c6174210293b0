/** `GET /v1/events`: the live figures that the charts of the playground draw. */
import { PassThrough } from 'node:stream'
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import { Refusal, unavailable } from '../http/problem.js'
import { answers } from '../openapi/schemas.js'
import type { Stats } from '../playground/stats.js'

interface EventOptions {
  readonly stats: Stats
  /** Rows that wait now. */
  readonly queueRows: () => number
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

export const eventRoutes: FastifyPluginAsync<EventOptions> = async (app, { stats, queueRows }) => {
  const listeners = new Set<PassThrough>()
  let timer: NodeJS.Timeout | undefined

  const tell = () => {
    const text = `data: ${JSON.stringify({ ...stats.take(), queueRows: queueRows() })}\n\n`
    for (const listener of listeners) {
      if (listener.writableLength > MAX_UNREAD) listener.destroy()
      else listener.write(text)
    }
  }
  const leave = (listener: PassThrough) => {
    listeners.delete(listener)
    if (listeners.size > 0) return
    clearInterval(timer)
    timer = undefined
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
    if (timer === undefined) {
      // What was counted while nobody listened is not of this moment.
      stats.take()
      timer = setInterval(tell, INTERVAL_MS).unref()
    }
    // The browser asks again this long after a connection is lost.
    listener.write('retry: 2000\n\n')
    return reply.headers({ 'content-type': 'text/event-stream', 'cache-control': 'no-store' }).send(listener)
  })
}
