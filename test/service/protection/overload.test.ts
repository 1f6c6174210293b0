import { connect } from 'node:net'
import t from 'tap'
import { buildService } from '../../support/build.js'
import { limitsFile, sha256 } from '../../support/limits-file.js'
import { openFolder, until } from '../../support/onnx-folder.js'
import { slow } from '../../support/onnx-models.js'

t.test('while requests wait, those of a higher plan go first', async t => {
  const files = { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 16) }
  const { models } = await openFolder(t, files)
  const plan = (priority?: number) => ({
    policies: [{ name: 'requests', limit: 1000, window: '1 minute' }],
    priority,
  })
  const { path } = limitsFile(t, {
    anonymous: 'free',
    plans: { free: plan(), pro: plan(10) },
    keys: [{ sha256: sha256('one'), plan: 'pro' }],
  })
  const { predict } = await buildService(t, { LIMITS_FILE: path, REQUEST_TIMEOUT_MS: 60_000 }, models)
  const order: string[] = []
  const ask = async (plan: string, more = {}) => {
    const { statusCode } = await predict({ features: [1] }, more)
    order.push(`${plan} ${statusCode}`)
  }
  const free = Array.from({ length: 12 }, () => ask('free'))
  await until(() => models.queueRows >= 10, 'they wait')
  await Promise.all([...free, ...[1, 2].map(() => ask('pro', { headers: { 'x-api-key': 'one' } }))])
  t.equal(order.filter(each => each === 'pro 200').length, 2)
  t.ok(order.lastIndexOf('pro 200') < 12, order.join(', '))
  t.equal(order.filter(each => each === 'free 200').length, 12, 'and the others after them')
})

t.test('what would not be answered in time is refused before its body is read, and not charged', async t => {
  const files = { 'slow/model.json': { maxBatchRows: 1 }, 'slow/1/model.onnx': slow(512, 16) }
  const { models } = await openFolder(t, files)
  const { app, ask, predict } = await buildService(t, { RATE_LIMIT_MAX: 1000, REQUEST_TIMEOUT_MS: 120_000 }, models)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }
  const crowd = Array.from({ length: 30 }, () => predict({ features: [1] }))
  await until(() => models.queueRows >= 25, 'they wait')
  for (const url of ['/v1/predict', '/v1/models/slow/predict', '/v2/models/slow/infer']) {
    const socket = connect(port, '127.0.0.1')
    t.teardown(() => socket.destroy())
    socket.write(
      `POST ${url} HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: 100\r\nx-request-timeout-ms: 1\r\n\r\n`,
    )
    const answer = await new Promise(resolve => socket.once('data', data => resolve(String(data))))
    t.match(answer, /^HTTP\/1\.1 429 /, url)
    t.match(answer, /\r\nretry-after: \d+\r\n/)
  }
  t.match((await ask('/v1/limits')).json().policies, [{ remaining: 970 }])
  t.ok((await Promise.all(crowd)).every(({ statusCode }) => statusCode === 200))
})
