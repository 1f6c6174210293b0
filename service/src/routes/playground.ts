/** The page at `/`, its files, and the live figures that its charts draw. */
import { createRequire } from 'node:module'
import { basename, dirname } from 'node:path'
import { PassThrough } from 'node:stream'
import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import type { FastifyPluginAsync } from 'fastify'
import { Type } from 'typebox'
import { Refusal, unavailable } from '../http/problem.js'
import { answers } from '../openapi/schemas.js'
import type { Stats } from '../playground/stats.js'

interface PlaygroundOptions {
  readonly stats: Stats
  /** Rows that wait now. */
  readonly queueRows: () => number
}

const WEB = fileURLToPath(new URL('../../web/', import.meta.url))
const UPLOT = dirname(createRequire(import.meta.url).resolve('uplot/dist/uPlot.esm.js'))

const OWN_FILES = ['style.css', 'icon.svg', 'main.js', 'api.js', 'charts.js', 'digit.js', 'models.js', 'quota.js']
const FILES: readonly (readonly [url: string, folder: string])[] = [
  ...OWN_FILES.map(name => [`/playground/${name}`, WEB] as const),
  ['/playground/uPlot.esm.js', UPLOT],
  ['/playground/uPlot.min.css', UPLOT],
]

/** The page runs its own files, asks its own origin, and is framed by nobody. */
const PAGE_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
  "form-action 'none'; frame-ancestors 'none'"

/** How often the charts get a point, in milliseconds. */
const INTERVAL_MS = 500
const MAX_LISTENERS = 32
/** A listener that has this much unread is taken for gone, in bytes. */
const MAX_UNREAD = 65_536

const events = {
  tags: ['Health'],
  summary: 'What the service did in each half second, as server-sent events',
  operationId: 'events',
  response: answers({ success: Type.String(), type: 'text/event-stream', refusals: [503] }),
}

const unlimited = { config: { rateLimit: false }, schema: { hide: true } as object }

export const playgroundRoutes: FastifyPluginAsync<PlaygroundOptions> = async (app, { stats, queueRows }) => {
  await app.register(fastifyStatic, { root: WEB, serve: false })
  app.get('/', unlimited, (_request, reply) => {
    reply.header('content-security-policy', PAGE_POLICY)
    return reply.sendFile('index.html', WEB)
  })
  for (const [url, folder] of FILES) {
    app.get(url, unlimited, (_request, reply) => reply.sendFile(basename(url), folder))
  }

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
  app.get('/v1/events', { config: unlimited.config, schema: events, exposeHeadRoute: false }, (_request, reply) => {
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
