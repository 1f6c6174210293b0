import t from 'tap'
import { Documents, documentOf } from '../../../service/src/http/document.js'
import type { Model } from '../../../service/src/inference/types.js'
import { buildService } from '../../support/build.js'
import { ElementType } from '../../support/onnx-builder.js'
import { openFolder, writeModels } from '../../support/onnx-folder.js'
import { identity } from '../../support/onnx-models.js'

const { FLOAT } = ElementType

t.test('a document is made once for each change of the models', async t => {
  let list: readonly Model[] = []
  const documents = new Documents({ list: () => list })
  let made = 0
  const read = () => documents.get('all', () => ({ made: ++made }))
  t.equal(read(), read())
  t.equal(made, 1)
  const before = read().etag
  list = []
  t.equal(read().bytes.toString(), '{"made":2}')
  t.not(read().etag, before)
})

t.test('numbers without a form in JSON are words, as in predictions', async t => {
  const { bytes } = documentOf({ share: 0.5, largestDifference: Number.POSITIVE_INFINITY, sample: [Number.NaN] })
  t.equal(bytes.toString(), '{"share":0.5,"largestDifference":"Infinity","sample":["NaN"]}')
})

t.test('nothing that is not asked for carries a long sample', async t => {
  const { models } = await openFolder(t, {
    'picture/1/model.onnx': identity(FLOAT, ['batch', 3, 64, 64]),
    'short/1/model.onnx': identity(FLOAT, ['batch', 3]),
    'short/model.json': { labels: ['a', 'b', 'c'] },
    'many/1/model.onnx': identity(FLOAT, ['batch', 1000]),
    'many/model.json': { labels: Array.from({ length: 1000 }, (_, index) => `label number ${index}`) },
  })
  const { ask } = await buildService(t, { RATE_LIMIT_MAX: 1000 }, models)
  const post = (url: string, payload: object) => ask({ method: 'POST', url, payload })

  const refused = await post('/v1/models/picture/predict', { features: 1 })
  t.equal(refused.statusCode, 400)
  t.ok(refused.payload.length < 1000, `a refusal of ${refused.payload.length} bytes`)
  const { takes } = refused.json()
  t.match(takes, {
    model: 'picture',
    version: '1',
    inputs: [{ name: 'x' }],
    sampleUrl: /^\/v1\/models\/picture\/sample/,
  })
  t.notOk('sample' in takes)
  t.match((await post('/v1/models/short/predict', { features: 1 })).json().takes, { sample: { model: 'short' } })

  const sample = await ask(takes.sampleUrl)
  t.equal(sample.statusCode, 200)
  t.ok(sample.payload.length > 40_000, 'the sample itself is long')
  t.equal((await post('/v1/predict', sample.json())).statusCode, 200, 'and is taken')
  t.equal(sample.headers['x-ratelimit-remaining'], '997', 'it counts, and so did the refusals')

  const one = await ask('/v1/models/picture')
  t.ok(one.payload.length < 2000)
  t.match(one.json(), { name: 'picture', sampleUrl: takes.sampleUrl })
  t.equal((await ask('/v1/models/many')).json().labels.length, 1000, 'a description of its own has all labels')
  const all = await ask('/v1/models')
  t.ok(all.payload.length < 6000, `${all.payload.length} bytes for three models`)
  const [many] = all.json().models
  t.match(many, { name: 'many', url: '/v1/models/many?version=1' })
  t.notOk('labels' in many || 'sample' in many)
  t.equal((await ask(many.url)).statusCode, 200)

  for (const url of ['/openapi.json', '/docs/json']) {
    const { payload } = await ask(url)
    t.notMatch(payload, /(?:0\.5,){1000}/, `${url} has no long sample`)
    t.match(payload, takes.sampleUrl, 'but says where it is')
  }
})

t.test('a long list of inputs is left out for a link', async t => {
  const inputs = Array.from({ length: 200 }, (_, index) => ({
    name: `measurement_number_${index}`,
    datatype: 'FP32' as const,
    shape: ['batch', 1],
  }))
  const { models } = await openFolder(t, { 'short/1/model.onnx': identity(FLOAT, ['batch', 3]) })
  const [short] = models.list()
  const info = { ...(short as Model).info, name: 'wide', inputs, sample: { model: 'wide', inputs: {} } }
  const wide: Model = { info, run: () => Promise.reject(new Error('not run')) }
  const { ask } = await buildService(t, {}, { ...fake(models), list: () => [wide], get: () => wide })
  const { statusCode, payload } = await ask({ method: 'POST', url: '/v1/predict', payload: { inputs: {} } })
  t.equal(statusCode, 400)
  t.ok(payload.length < 4096, `${payload.length} bytes`)
  t.match(JSON.parse(payload).takes, { url: '/v1/models/wide?version=1' })
  t.match(JSON.parse(payload).detail, /measurement_number_0.* and \d+ more/)
  const long = 'x'.repeat(100_000)
  for (const body of [{ [long]: 1 }, { inputs: { [long]: 1 } }, { inputs: long }, { version: [long], inputs: {} }]) {
    const { statusCode, payload } = await ask({ method: 'POST', url: '/v1/predict', payload: body })
    t.equal(statusCode, 400)
    t.ok(payload.length < 4096, `${payload.length} bytes to a long key or value`)
  }
})

const fake = (models: Awaited<ReturnType<typeof openFolder>>['models']) => ({
  versions: (name: string) => models.versions(name),
  broken: [],
  queueRows: 0,
  ready: true,
  reload: () => models.reload(),
  close: async () => {},
})

t.test('who has a document already is told so, until the models change', async t => {
  const { models, dir } = await openFolder(t, { 'a/1/model.onnx': identity(FLOAT, ['batch', 3]) })
  const { ask } = await buildService(t, { RATE_LIMIT_MAX: 1000 }, models)
  const urls = ['/openapi.json', '/docs/json', '/v1/models', '/v1/models/a', '/v1/models/a/sample']
  const first = new Map<string, string>()
  for (const url of urls) {
    const { headers, payload } = await ask(url)
    const etag = headers.etag as string
    t.match(etag, /^"[\w-]{20,}"$/, url)
    t.equal(headers['cache-control'], 'no-cache')
    t.match(headers['content-type'], /^application\/json/)
    first.set(url, etag)
    for (const has of [etag, `W/${etag}`, `"other", ${etag}`, '*']) {
      const again = await ask({ url, headers: { 'if-none-match': has } })
      t.equal(again.statusCode, 304, `${url}: ${has}`)
      t.equal(again.payload, '')
      t.equal(again.headers.etag, etag)
    }
    const other = await ask({ url, headers: { 'if-none-match': '"other"' } })
    t.equal(other.statusCode, 200)
    t.equal(other.payload, payload)
  }
  writeModels(dir, { 'a/2/model.onnx': identity(FLOAT, ['batch', 4]) })
  await models.reload()
  for (const url of urls) {
    const { statusCode, headers } = await ask({ url, headers: { 'if-none-match': first.get(url) as string } })
    t.equal(statusCode, 200, `${url}: changed`)
    t.not(headers.etag, first.get(url))
  }
})
