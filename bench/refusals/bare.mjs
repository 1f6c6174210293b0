import { randomUUID } from 'node:crypto'
import Fastify from 'fastify'
import { answerParent } from '../child.mjs'
import { useOf } from '../inference/use.mjs'

/** Bare Fastify that refuses everything in `onRequest`, with a problem document of 200 bytes. */
const app = Fastify()
app.addHook('onRequest', (_request, reply, done) => {
  reply.code(429).header('retry-after', 60).header('content-type', 'application/problem+json')
  reply.send(
    Buffer.from(
      JSON.stringify({
        type: 'https://iana.org/assignments/http-problem-types#quota-exceeded',
        title: 'Quota exceeded',
        status: 429,
        instance: `urn:uuid:${randomUUID()}`,
        retryAfter: 60,
      }),
    ),
  )
  done()
})
app.post('/v1/predict', async () => ({}))
await app.listen({ port: 0, host: '127.0.0.1' })
answerParent({ port: app.server.address().port }, useOf)
