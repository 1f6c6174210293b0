/** NestJS with its Fastify adapter: controllers are limited, and a denial is 429. */
import t from 'tap'
import { node, offline, project, write } from './support.js'

const APP = `
require('reflect-metadata')
const { Controller, Get, HttpException, Module } = require('@nestjs/common')
const { NestFactory } = require('@nestjs/core')
const { FastifyAdapter } = require('@nestjs/platform-fastify')
const rateLimit = require('ml-api-rate-limiter')

class Controlled {
  async all() { return 'ok' }
  async byHand(request) {
    const answer = await ask(request)
    if (!answer.isAllowed && answer.isExceeded) throw new HttpException('Rate limit exceeded', 429)
    return 'ok'
  }
}
let ask
const decorate = (name, ...decorators) => {
  const descriptor = Object.getOwnPropertyDescriptor(Controlled.prototype, name)
  for (const each of decorators) each(Controlled.prototype, name, descriptor)
}
const { Req } = require('@nestjs/common')
decorate('all', Get('/'))
decorate('byHand', Get('/by-hand'))
Req()(Controlled.prototype, 'byHand', 0)
Controller()(Controlled)
class AppModule {}
Module({ controllers: [Controlled] })(AppModule)

async function main() {
  const app = await NestFactory.create(AppModule, new FastifyAdapter(), { logger: false })
  await app.register(rateLimit, { max: 3, timeWindow: '1 minute' })
  ask = app.getHttpAdapter().getInstance().createRateLimit({ max: 1, timeWindow: '1 minute' })
  await app.listen(0, '127.0.0.1')
  const url = await app.getUrl()
  const codes = []
  for (const path of ['/by-hand', '/by-hand', '/', '/']) codes.push((await fetch(url + path)).status)
  await app.close()
  console.log(codes.join())
}
main()
`

const skip = await offline()
t.test('controllers of NestJS are limited, and a denial is 429', { skip: skip ?? false }, async t => {
  const version = '12.5.0'
  const nest = ['common', 'core', 'platform-fastify'].map(name => `@nestjs/${name}@${version}`)
  const folder = await project(t, [...nest, 'reflect-metadata@0.2', 'rxjs@7', 'fastify@5.12.8'])
  write(folder, { 'app.cjs': APP })
  t.equal(await node(['app.cjs'], folder), '200,429,200,429\n')
})
