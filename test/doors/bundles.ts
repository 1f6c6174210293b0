/** Bundlers make one file of an app with the plugin, Fastify and ioredis. It runs in a folder without any package. */
import { readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import t from 'tap'
import { emptyFolder, installTools, node, offline, project, write } from './support.js'

const ESM = readFileSync('test/doors/programs/app.mjs', 'utf8')
const CJS = ESM.replace("import Fastify from 'fastify'", "const Fastify = require('fastify')")
  .replace("import { Redis } from 'ioredis'", "const { Redis } = require('ioredis')")
  .replace(
    "import rateLimit, { normalizeIP } from 'ml-api-rate-limiter'",
    "const rateLimit = require('ml-api-rate-limiter')\nconst { normalizeIP } = rateLimit",
  )
const ANSWER = '200,429 200,429 192.0.2.1\n'
const REDIS_URL = process.env.REDIS_URL ?? 'redis://127.0.0.1:6379'

/** With node-redis in the place of ioredis. */
const NODE_REDIS = ESM.replace("import { Redis } from 'ioredis'", "import { createClient } from 'redis'")
  .replace('new Redis(process.env.REDIS_URL)', 'await createClient({ url: process.env.REDIS_URL }).connect()')
  .replace('redis.disconnect()', 'await redis.close()')

const skip = await offline()
t.test('the plugin as it is packed works as it is, and in every bundle', { skip: skip ?? false }, async t => {
  await installTools()
  const folder = await project(t, ['fastify@5', 'ioredis@6', 'redis@6'])
  write(folder, { 'app.mjs': ESM, 'app.cjs': CJS, 'node-redis.mjs': NODE_REDIS })
  for (const entry of ['app.mjs', 'app.cjs', 'node-redis.mjs'])
    t.equal(await node([entry], folder, { REDIS_URL }), ANSWER, entry)
  for (const [kind, entry, file] of [
    ['esbuild-esm', 'app.mjs', 'bundle.mjs'],
    ['esbuild-cjs', 'app.mjs', 'bundle.cjs'],
    ['esbuild-cjs', 'app.cjs', 'bundle.cjs'],
    ['esbuild-esm', 'node-redis.mjs', 'bundle.mjs'],
    ['rollup-esm', 'app.mjs', 'bundle.mjs'],
    ['rollup-cjs', 'app.mjs', 'bundle.cjs'],
    ['webpack', 'app.mjs', 'bundle.cjs'],
    ['webpack', 'app.cjs', 'bundle.cjs'],
    ['ncc', 'app.cjs', 'bundle.cjs'],
    ['ncc', 'app.mjs', 'bundle.mjs'],
  ] as const) {
    const empty = emptyFolder(t)
    await node([resolve('test/doors/bundle.mjs'), kind, entry, join(empty, file)], folder)
    t.equal(await node([file], empty, { REDIS_URL }), ANSWER, `${kind} of ${entry}`)
  }
})
