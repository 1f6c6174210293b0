/** `GET /openapi.json` and `GET /docs`: what the service takes and answers, made from the schemas of its own routes. */
import { readFileSync } from 'node:fs'
import swagger from '@fastify/swagger'
import swaggerUi from '@fastify/swagger-ui'
import type { FastifyInstance, FastifyReply, FastifyRequest } from 'fastify'
import { Documents, sendDocument } from '../http/document.js'
import type { Models } from '../inference/types.js'
import { type Document, withModels } from './by-model.js'
import { ERRORS } from './errors.js'

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

const DOCS = '/docs'

/** The page runs its own scripts and nothing else; it draws its icons from `data:` URLs. */
const PAGE_POLICY =
  "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; " +
  "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"

const web = (filename: string) => ({
  filename,
  content: readFileSync(new URL(`../../web/${filename}`, import.meta.url), 'utf8'),
})

const DESCRIPTION = `Predictions of ONNX models behind an exact rate limiter.

Every answer of a limited route says what is left of the caller's quota, in \`x-ratelimit-*\` and in the two fields of
draft-ietf-httpapi-ratelimit-headers. Errors under /v1 are problem documents (RFC 9457) with a \`code\` that never changes;
under /v2 they have the form of the Open Inference Protocol.

| Status | Code | When |
| --- | --- | --- |
${ERRORS.map(([status, code, when]) => `| ${status} | \`${code}\` | ${when} |`).join('\n')}`

/** Collects the routes that are made from here on. Before the limiter, which then leaves the pages alone. */
export async function collectRoutes(app: FastifyInstance): Promise<void> {
  app.addHook('onRoute', route => {
    if (route.url.startsWith(DOCS)) route.config = { ...route.config, rateLimit: false }
    // YAML takes the main thread ten times as long to write as JSON, and nobody is limited here.
    if (route.url === `${DOCS}/yaml`) route.handler = (_request, reply) => reply.callNotFound()
  })
  await app.register(swagger, {
    openapi: {
      openapi: '3.1.0',
      info: {
        title: 'ml-api-rate-limiter',
        version,
        description: DESCRIPTION,
        license: { name: 'MIT', identifier: 'MIT' },
      },
      servers: [{ url: '/' }],
      components: {
        securitySchemes: { adminToken: { type: 'http', scheme: 'bearer', description: 'ADMIN_TOKEN' } },
      },
    },
    // Routes that refuse the other methods of a URL say nothing of themselves.
    transform: ({ schema, url, route }) => ({
      schema: Array.isArray(route.method) || route.method === 'OPTIONS' ? { ...schema, hide: true } : schema,
      url,
    }),
  })
}

/** Adds the document and its page. `models`: what is loaded when somebody asks, each with its schema and sample. */
export async function documentRoutes(app: FastifyInstance, models: Models): Promise<void> {
  const documents = new Documents(models)
  const build = () => {
    const infos = models.list().map(({ info }) => info)
    return withModels(app.swagger() as Document, infos)
  }
  const send = (request: FastifyRequest, reply: FastifyReply) =>
    sendDocument(documents.get('openapi', build), request, reply)
  app.get('/openapi.json', { config: { rateLimit: false }, schema: { hide: true } as object }, send)
  app.addHook('onRoute', route => {
    // The page would write it for each who asks.
    if (route.url === `${DOCS}/json`) route.handler = send
  })
  await app.register(swaggerUi, {
    routePrefix: DOCS,
    staticCSP: PAGE_POLICY,
    theme: { title: 'API reference · ml-api-rate-limiter', css: [web('reference.css')], js: [web('reference.js')] },
    uiConfig: {
      // Without the bar at the top, which asks for the address of another document.
      layout: 'BaseLayout',
      docExpansion: 'list',
      deepLinking: true,
      displayRequestDuration: true,
      validatorUrl: null,
    },
  } as object)
}
