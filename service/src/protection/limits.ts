/** The quotas in front of everything that costs: one limiter, which every route has unless it says otherwise. */
import type { FastifyInstance } from 'fastify'
import rateLimit from 'ml-api-rate-limiter'
import { callerOf } from '../auth.js'
import type { Config } from '../config.js'

export async function registerLimits(app: FastifyInstance, config: Config): Promise<void> {
  const { max, windowMs } = config.rateLimit
  await app.register(rateLimit, {
    policies: [{ name: 'requests', max, timeWindow: windowMs }],
    keyGenerator: request => callerOf(request).key,
    ...(app.hasDecorator('redis') ? { redis: app.redis } : {}),
    nameSpace: config.redisNameSpace,
    onStoreError: config.onStoreError,
    storeTimeout: config.storeTimeoutMs,
  })
}
