import Fastify from 'fastify'
import { answerParent } from '../child.mjs'
import { useOf } from './use.mjs'

/** The floor: node parse.mjs <models> <model> <Redis port> <bytes of the answer>. */
const answer = process.argv[5]
const app = Fastify()
app.post('/v1/predict', (_request, reply) => {
  reply.type('application/json; charset=utf-8').send(answer)
})
app.get('/health/live', (_request, reply) => {
  reply.send({ status: 'live' })
})
await app.listen({ port: 0, host: '127.0.0.1' })
answerParent({ port: app.server.address().port }, useOf)
