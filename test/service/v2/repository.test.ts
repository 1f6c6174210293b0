import t from 'tap'
import { buildService } from '../../support/build.js'
import { openFolder } from '../../support/onnx-folder.js'
import { identity } from '../../support/onnx-models.js'

t.setTimeout(300_000)

t.test('models are taken out and put back by whoever has the admin token', async t => {
  const { models } = await openFolder(t, { 'a/1/model.onnx': identity(), 'b/1/model.onnx': identity() })
  const { ask } = await buildService(t, { ADMIN_TOKEN: 'secret' }, models)
  const post = (path: string, token = 'secret') =>
    ask({ method: 'POST', url: `/v2/repository/models/${path}`, headers: { authorization: `Bearer ${token}` } })
  t.equal((await post('a/unload', 'wrong')).statusCode, 401)
  t.equal((await post('a/unload')).statusCode, 200)
  t.equal((await ask('/v2/models/a')).statusCode, 404)
  t.equal((await post('b/unload')).statusCode, 400, 'the last one stays')
  t.equal((await post('a/load')).statusCode, 200)
  t.equal((await ask('/v2/models/a')).statusCode, 200)
  t.equal((await post('nobody/load')).statusCode, 404)
  t.equal((await post('nobody/unload')).statusCode, 404)
  t.match((await ask('/v2')).json(), { extensions: ['binary_tensor_data', 'statistics', 'model_repository'] })
})

t.test('what a model has run is told in the form of Triton', async t => {
  const { models } = await openFolder(t, { 'a/1/model.onnx': identity() })
  const { ask, predict } = await buildService(t, {}, models)
  await predict({
    features: [
      [1, 2, 3],
      [4, 5, 6],
    ],
  })
  const { model_stats: stats } = (await ask('/v2/models/a/stats')).json()
  t.match(stats, [
    {
      name: 'a',
      version: '1',
      inference_count: 2,
      execution_count: 1,
      inference_stats: { success: { count: 1, ns: Number }, fail: { count: 0 }, compute_infer: { count: 1 } },
      batch_stats: [{ batch_size: 2, compute_infer: { count: 1 } }],
    },
  ])
  t.equal((await ask('/v2/models/a/versions/1/stats')).json().model_stats.length, 1)
  t.equal((await ask('/v2/models/a/versions/9/stats')).statusCode, 404)
  t.equal((await ask({ method: 'POST', url: '/v2/repository/models/a/unload' })).statusCode, 404, 'no admin, no route')
})
