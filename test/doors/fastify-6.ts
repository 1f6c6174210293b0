/** The pre-release of Fastify 6 that the peer dependency names. */
import { readFileSync } from 'node:fs'
import t from 'tap'
import { node, offline, project, write } from './support.js'

const REDIS_URL = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379'
const { peerDependencies } = JSON.parse(readFileSync('plugin/package.json', 'utf8'))
const [, preRelease = ''] = /(6\.0\.0-[\w.]+)$/.exec(peerDependencies.fastify) ?? []

// It is made for Node.js 22, and needs this of it.
const NODE_22 = `Promise.withResolvers ??= () => {
  let resolve, reject
  const promise = new Promise((first, second) => { resolve = first; reject = second })
  return { promise, resolve, reject }
}
`
const APP = `${NODE_22}
const Fastify = require('fastify')
const { Redis } = require('ioredis')
const rateLimit = require('ml-api-rate-limiter')

async function answers(options) {
  const app = Fastify()
  app.get('/early', async () => 'ok')
  await app.register(rateLimit, { max: 2, timeWindow: '1 minute', concurrency: { max: 3 }, ...options })
  app.get('/', { preHandler: app.rateLimit({ max: 5, name: 'own' }) }, async () => 'ok')
  app.setNotFoundHandler({ preHandler: app.rateLimit() }, (_request, reply) => reply.code(404).send())
  const seen = []
  for (const url of ['/early', '/', '/', '/nowhere']) seen.push((await app.inject(url)).statusCode)
  await app.close()
  return [app.version, ...seen].join()
}

async function main() {
  const redis = new Redis(process.env.REDIS_URL)
  console.log(await answers({}), await answers({ redis, nameSpace: 'six:' + process.pid + Date.now(), storeTimeout: 5000 }))
  redis.disconnect()
}
main()
`

const skip = await offline()
t.test(`the plugin installs beside Fastify ${preRelease} and limits it`, { skip: skip ?? false }, async t => {
  const folder = await project(t, [`fastify@${preRelease}`, 'ioredis@6'])
  write(folder, { 'app.cjs': APP })
  const expected = `${preRelease},200,200,429,429`
  t.equal(await node(['app.cjs'], folder, { REDIS_URL }), `${expected} ${expected}\n`)
})
