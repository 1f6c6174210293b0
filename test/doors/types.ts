/** The types of the packed plugin compile with every TypeScript that is in use, in every module system. */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import t from 'tap'
import { installTools, offline, project, run, TOOLS, write } from './support.js'

const COMPILERS = ['5.4', '5.9', '6', '7']
const USES = readFileSync('test/doors/programs/uses.mts', 'utf8')
const REQUIRES = `import rateLimit = require('ml-api-rate-limiter')
import Fastify, { type FastifyInstance } from 'fastify'
import named, { QuotaExceeded, type Decision, type RateLimitPluginOptions } from 'ml-api-rate-limiter'

const options: rateLimit.RateLimitPluginOptions = { max: 1 }
export const same: RateLimitPluginOptions = options
export async function app(): Promise<FastifyInstance> {
  const app = Fastify()
  await app.register(rateLimit, options)
  await app.register(named, { max: 1, redis: undefined })
  await app.register(rateLimit.default)
  app.get('/', { onRequest: app.rateLimit() }, async request => request.rateLimit?.binding.remaining)
  return app
}
export function decisionOf(error: unknown): Decision | undefined {
  return error instanceof QuotaExceeded && error instanceof rateLimit.QuotaExceeded ? error.decision : undefined
}
// @ts-expect-error a quota is a number or a function
export const wrong: RateLimitPluginOptions = { max: '1' }
`

const NODE_16 = { module: 'node16', files: ['uses.mts', 'requires.cts'] }
const NODE_NEXT = { module: 'nodenext', files: ['uses.mts', 'requires.cts'] }
const BUNDLER = { module: 'esnext', moduleResolution: 'bundler', files: ['uses.mts'] }

const skip = await offline()
t.test('types compile with TypeScript 5.4 to 7, with and without `skipLibCheck`', { skip: skip ?? false }, async t => {
  await installTools()
  const folder = await project(t, ['fastify@5', 'ioredis@6', '@types/node@20'])
  write(folder, { 'uses.mts': USES, 'requires.cts': REQUIRES })
  for (const compiler of COMPILERS) {
    for (const { files, ...modules } of [NODE_16, NODE_NEXT, BUNDLER]) {
      for (const skipLibCheck of [true, false]) {
        const compilerOptions = {
          ...modules,
          skipLibCheck,
          strict: true,
          exactOptionalPropertyTypes: true,
          esModuleInterop: true,
          noEmit: true,
          target: 'es2022',
          types: ['node'],
        }
        write(folder, { 'tsconfig.json': JSON.stringify({ compilerOptions, files }) })
        const tsc = join(TOOLS, `node_modules/typescript-${compiler}/bin/tsc`)
        const { code, output } = await run(process.execPath, [tsc, '-p', '.'], folder)
        t.equal(code, 0, `${compiler} ${modules.module} skipLibCheck: ${skipLibCheck} ${output}`)
      }
    }
  }
})
