import { answerParent } from '../child.mjs'
import { useOf } from './use.mjs'

/** The service as it is built and set up by the environment: node service.mjs <models> <model> <Redis port, or 0>. */
const [models, , redisPort] = process.argv.slice(2)
const built = file => new URL(`../../service/dist/${file}`, import.meta.url).href
const { buildApp } = await import(built('app.js'))
const { readConfig } = await import(built('config.js'))
const { openModels } = await import(built('inference/models/repository.js'))
const { warmUp } = await import(built('warm.js'))

const config = readConfig({
  MODELS_DIR: models,
  LOG_LEVEL: 'error',
  RATE_LIMIT_WINDOW: '1 hour',
  RATE_LIMIT_MAX: '1000000',
  ...(redisPort === '0' ? {} : { REDIS_URL: `redis://127.0.0.1:${redisPort}` }),
  ...JSON.parse(process.env.BENCH_SETTINGS ?? '{}'),
})
const warmed = warmUp(config, () => false)
const { app, ops } = await buildApp(config, {
  openModels: (log, onEvent) => openModels({ ...config.models, log, onEvent }),
})
await warmed
await app.listen({ port: 0, host: '127.0.0.1' })
const watched = config.opsPort === undefined ? undefined : await ops.listen('127.0.0.1', config.opsPort)
answerParent({ port: app.server.address().port, opsPort: watched && Number(new URL(watched).port) }, useOf)
