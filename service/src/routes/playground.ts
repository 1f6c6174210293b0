/** The page at `/` and its files. */
import { createRequire } from 'node:module'
import { basename, dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import type { FastifyPluginAsync } from 'fastify'

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

const unlimited = { config: { rateLimit: false }, schema: { hide: true } as object }

export const playgroundRoutes: FastifyPluginAsync = async app => {
  await app.register(fastifyStatic, { root: WEB, serve: false })
  app.get('/', unlimited, (_request, reply) => {
    reply.header('content-security-policy', PAGE_POLICY)
    return reply.sendFile('index.html', WEB)
  })
  for (const [url, folder] of FILES) {
    app.get(url, unlimited, (_request, reply) => reply.sendFile(basename(url), folder))
  }
}
