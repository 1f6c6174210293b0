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
