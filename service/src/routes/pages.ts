/** The pages at `/` and `/console`, and their files. */
import { createRequire } from 'node:module'
import { basename, dirname } from 'node:path'
import { fileURLToPath } from 'node:url'
import fastifyStatic from '@fastify/static'
import type { FastifyInstance, FastifyPluginAsync } from 'fastify'

const WEB = fileURLToPath(new URL('../../web/', import.meta.url))
const UPLOT = dirname(createRequire(import.meta.url).resolve('uplot/dist/uPlot.esm.js'))

const CONSOLE = fileURLToPath(new URL('../../web/console/', import.meta.url))

const OWN_FILES = ['style.css', 'icon.svg', 'main.js', 'api.js', 'charts.js', 'digit.js', 'models.js', 'quota.js']
const FILES: readonly (readonly [url: string, folder: string])[] = [
  ...OWN_FILES.map(name => [`/playground/${name}`, WEB] as const),
  ['/playground/uPlot.esm.js', UPLOT],
  ['/playground/uPlot.min.css', UPLOT],
]

const CONSOLE_FILES: readonly (readonly [url: string, folder: string])[] = [
  ...['main.js', 'api.js', 'keys.js', 'policies.js', 'usage.js', 'console.css'].map(
    name => [`/console/${name}`, CONSOLE] as const,
  ),
  ...['style.css', 'icon.svg'].map(name => [`/console/${name}`, WEB] as const),
  ...['uPlot.esm.js', 'uPlot.min.css'].map(name => [`/console/${name}`, UPLOT] as const),
]

/** The page runs its own files, asks its own origin, and is framed by nobody. */
const PAGE_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; " +
  "form-action 'none'; frame-ancestors 'none'"

const unlimited = { config: { rateLimit: false }, schema: { hide: true } as object }

export const playgroundRoutes: FastifyPluginAsync = async app => servePage(app, '/', WEB, FILES)

/** The page at `/console`, which asks for the admin token itself. */
export const consoleRoutes: FastifyPluginAsync = async app => servePage(app, '/console', CONSOLE, CONSOLE_FILES)

async function servePage(
  app: FastifyInstance,
  page: string,
  folder: string,
  files: readonly (readonly [url: string, folder: string])[],
): Promise<void> {
  await app.register(fastifyStatic, { root: folder, serve: false })
  app.get(page, unlimited, (_request, reply) => {
    reply.header('content-security-policy', PAGE_POLICY)
    return reply.sendFile('index.html', folder)
  })
  for (const [url, from] of files) {
    app.get(url, unlimited, (_request, reply) => reply.sendFile(basename(url), from))
  }
}
