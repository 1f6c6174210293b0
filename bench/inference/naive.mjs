import { readFileSync } from 'node:fs'
import Fastify from 'fastify'
import { InferenceSession, Tensor } from 'onnxruntime-node'
import { answerParent } from '../child.mjs'
import { useOf } from './use.mjs'

/** What one writes first: node naive.mjs <models> <model>. Answers what the service answers. */
const [models, model] = process.argv.slice(2)
const folder = `${models}/${model}`
const session = await InferenceSession.create(`${folder}/1/model.onnx`)
const [input] = session.inputMetadata
const [output] = session.outputMetadata
const { labels } = JSON.parse(readFileSync(`${folder}/model.json`, 'utf8'))

const app = Fastify()
app.post('/v1/predict', async request => {
  const row = Float32Array.from(request.body.features)
  const result = await session.run({ [input.name]: new Tensor('float32', row, [1, row.length]) })
  const scores = Array.from(result[output.name].data)
  let best = 0
  for (let index = 1; index < scores.length; index++) if (scores[index] > scores[best]) best = index
  const prediction = { label: labels[best], score: scores[best], outputs: { [output.name]: scores } }
  return { model, version: '1', predictions: [prediction] }
})
app.get('/health/live', (_request, reply) => {
  reply.send({ status: 'live' })
})
await app.listen({ port: 0, host: '127.0.0.1' })
answerParent({ port: app.server.address().port }, useOf)
