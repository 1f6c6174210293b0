/**
 * NestJS on Fastify. A denial is answered with 429 by Nest's own filter. In TypeScript, `@Controller()`, `@Get('cats')` and
 * `@RouteConfig({ rateLimit: { max: 1 } })` stand above class and methods.
 *
 *   node examples/nestjs.js
 *
 *   curl -i 'localhost:3000/cats?[1-3]'    # 200 200 429, retry-after: 60
 *   curl -i 'localhost:3000/cat?[1-2]'     # 200 429, retry-after: 60
 */
import 'reflect-metadata'
import { Controller, Get, Module } from '@nestjs/common'
import { NestFactory } from '@nestjs/core'
import { FastifyAdapter, RouteConfig } from '@nestjs/platform-fastify'
import rateLimit from 'ml-api-rate-limiter'

class CatsController {
  all() {
    return ['Tom', 'Felix']
  }

  one() {
    return 'Tom'
  }
}

function decorate(method, ...decorators) {
  const { prototype } = CatsController
  for (const decorator of decorators) decorator(prototype, method, Object.getOwnPropertyDescriptor(prototype, method))
}
decorate('all', Get('cats'))
decorate('one', RouteConfig({ rateLimit: { max: 1 } }), Get('cat'))
Controller()(CatsController)

class AppModule {}
Module({ controllers: [CatsController] })(AppModule)

const app = await NestFactory.create(AppModule, new FastifyAdapter(), { logger: ['error'] })
await app.register(rateLimit, { max: 2, timeWindow: '1 minute' })
await app.listen(Number(process.env.PORT ?? 3000), '127.0.0.1')
console.log(`"Server listening at ${await app.getUrl()}"`)
