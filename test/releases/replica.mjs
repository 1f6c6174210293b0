/**
 * One replica of an app, with the release of the plugin that lies in a folder: `node replica.mjs FOLDER OPTIONS`. It asks
 * itself as its parent says: `{ id, path, key, count }`. It answers with `{ id, answers }`: of each request its status, and
 * when it was sent and answered, in milliseconds since 1970.
 */
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'
import { Redis } from 'ioredis'

const [folder, options] = process.argv.slice(2)
const { exports } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
const { default: entry } = exports['.']
const { default: rateLimit } = await import(pathToFileURL(join(folder, entry.default ?? entry)).href)

const redis = new Redis(process.env.REDIS_URL)
const app = Fastify()
await app.register(rateLimit, {
  redis,
  storeTimeout: 20_000,
  keyGenerator: request => request.headers['x-key'],
  ...JSON.parse(options),
})
app.get('/', async () => 'ok')
app.get('/refunded', async request => {
  await request.rateLimit.refund()
  return 'ok'
})
let end
const ended = new Promise(resolve => {
  end = resolve
})
app.get('/end', async () => end('ok') ?? 'ok')
app.get('/held', () => ended)
await app.ready()

const now = () => performance.timeOrigin + performance.now()

process.on('message', async ({ id, path, key, count }) => {
  const asks = Array.from({ length: count }, async () => {
    const sent = now()
    const { statusCode } = await app.inject({ url: path, headers: { 'x-key': key } })
    return { status: statusCode, sent, answered: now() }
  })
  process.send({ id, answers: await Promise.all(asks) })
})
process.on('disconnect', () => process.exit())
process.send({ id: 0, answers: [] })
