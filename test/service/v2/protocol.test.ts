/**
 * The endpoints and objects of the Open Inference Protocol, as its REST specification and OpenAPI description state them:
 * https://github.com/kserve/open-inference-protocol/tree/main/specification/protocol
 */
import t from 'tap'
import type { TSchema } from 'typebox'
import { Value } from 'typebox/value'
import { schemas } from '../../../service/src/protocol/v2-schema.js'
import { ask, echo, type FakeModel, fakeModels, infer, input, spec, v2App } from './v2-app.js'

const { data: _, ...withoutData } = input('FP32', [1, 3], []).inputs[0] as { data: unknown }

const constant = (name: string, version: string, value: number): FakeModel => ({
  name,
  version,
  inputs: [spec('x', 'FP32', ['batch', 3])],
  outputs: [spec('y', 'FP32', ['batch'])],
  run: (_inputs, { rows }) => ({
    y: { datatype: 'FP32', shape: [rows], data: new Float32Array(rows).fill(value) },
  }),
})

t.test(
  'the server tells its name, version and the extensions that it has, with and without a slash at the end',
  async t => {
    const app = await v2App(t, fakeModels([]))
    for (const url of ['/v2', '/v2/']) {
      const { status, body, headers } = await ask(app, 'GET', url)
      t.equal(status, 200, url)
      t.match(headers['content-type'], /^application\/json/)
      t.strictSame(Object.keys(body), ['name', 'version', 'extensions'])
      t.equal(body.name, 'ml-api-rate-limiter')
      t.match(body.version, /^\d+\.\d+\.\d+/)
      t.strictSame(body.extensions, ['binary_tensor_data', 'statistics'])
    }
    t.equal((await ask(app, 'HEAD', '/v2')).status, 200)
  },
)

t.test('health answers suit clients that read the status and clients that read the body', async t => {
  const models = fakeModels([echo('FP32')])
  let stopping = false
  const app = await v2App(t, models, { isUnready: () => stopping })
  t.match(await ask(app, 'GET', '/v2/health/live'), { status: 200, body: { live: true } })
  t.match(await ask(app, 'GET', '/v2/health/ready'), { status: 200, body: { live: true, ready: true } })
  for (const url of ['/v2/models/FP32/ready', '/v2/models/FP32/versions/1/ready']) {
    t.match(await ask(app, 'GET', url), { status: 200, body: { name: 'FP32', ready: true } })
  }
  for (const stop of [false, true]) {
    models.ready = stop
    stopping = stop
    for (const [url, body] of [
      ['/v2/health/ready', { live: true, ready: false, error: String }],
      ['/v2/models/FP32/ready', { name: 'FP32', ready: false, error: String }],
    ] as const) {
      const answer = await ask(app, 'GET', url)
      t.match(answer, { status: 503, body }, url)
      t.equal(answer.headers['retry-after'], '1')
    }
    t.match(await ask(app, 'GET', '/v2/health/live'), { status: 200, body: { live: true } })
  }
})

t.test('a model of the folder that did not load is not ready, one that is not there is unknown', async t => {
  const broken = [{ name: 'torn', version: '2', reason: '/srv/models/torn/2/model.onnx: protobuf parsing failed' }]
  const app = await v2App(t, fakeModels([echo('FP32')], broken))
  for (const url of ['/v2/models/torn/ready', '/v2/models/torn/versions/2/ready']) {
    const { status, body } = await ask(app, 'GET', url)
    t.equal(status, 503)
    t.match(body, { name: 'torn', ready: false, error: /could not be loaded/ })
  }
  t.match(await ask(app, 'GET', '/v2/models/none/ready'), { status: 404, body: { error: /no model 'none'/ } })
  t.match(await ask(app, 'GET', '/v2/models/FP32/versions/7/ready'), { status: 404, body: { error: /no version '7'/ } })
})

t.test('model metadata has names, datatypes, and shapes with -1 where a dimension varies', async t => {
  const model: FakeModel = {
    name: 'shapes',
    inputs: [
      spec('image', 'UINT8', ['batch', 3, 'height', 'width']),
      spec('word', 'BYTES', [1]),
      spec('scale', 'FP64', []),
      spec('free', 'INT64', [], true),
    ],
    outputs: [spec('half', 'FP16', ['?', 10])],
    run: () => ({}),
  }
  const app = await v2App(t, fakeModels([model]))
  const expected = {
    name: 'shapes',
    versions: ['1'],
    platform: 'onnx_onnxv1',
    inputs: [
      { name: 'image', datatype: 'UINT8', shape: [-1, 3, -1, -1] },
      { name: 'word', datatype: 'BYTES', shape: [1] },
      { name: 'scale', datatype: 'FP64', shape: [] },
      { name: 'free', datatype: 'INT64', shape: [-1] },
    ],
    outputs: [{ name: 'half', datatype: 'FP16', shape: [-1, 10] }],
  }
  t.strictSame((await ask(app, 'GET', '/v2/models/shapes')).body, expected)
  t.strictSame((await ask(app, 'GET', '/v2/models/shapes/versions/1')).body, expected)
  t.match(await ask(app, 'GET', '/v2/models/other'), {
    status: 404,
    body: { error: "no model 'other'; there is: shapes" },
  })
})

t.test('the version in the URL is the one that answers, and without it the newest does', async t => {
  const app = await v2App(t, fakeModels([constant('m', '1', 10), constant('m', '2', 20)]))
  const body = input('FP32', [2, 3], [1, 2, 3, 4, 5, 6])
  t.strictSame((await infer(app, 'm', body)).body, {
    model_name: 'm',
    model_version: '2',
    outputs: [{ name: 'y', shape: [2], datatype: 'FP32', data: [20, 20] }],
  })
  t.match((await infer(app, 'm/versions/1', body)).body, { model_version: '1', outputs: [{ data: [10, 10] }] })
  t.strictSame((await ask(app, 'GET', '/v2/models/m/versions/1')).body.versions, ['2', '1'])
  t.match(await infer(app, 'm/versions/3', body), { status: 404, body: { error: /no version '3'; there is: 2, 1/ } })
})

t.test("the specification's own example is answered as it says", async t => {
  const app = await v2App(
    t,
    fakeModels([
      {
        name: 'mymodel',
        inputs: [spec('input0', 'UINT32', [2, 2]), spec('input1', 'BOOL', [3])],
        outputs: [spec('output0', 'FP32', [3, 2]), spec('output1', 'FP32', [1])],
        run: () => ({
          output0: { datatype: 'FP32', shape: [3, 2], data: Float32Array.of(1, 1.1, 2, 2.1, 3, 3.1) },
          output1: { datatype: 'FP32', shape: [1], data: Float32Array.of(0) },
        }),
      },
    ]),
  )
  const { status, body, headers } = await infer(app, 'mymodel', {
    id: '42',
    inputs: [
      { name: 'input0', shape: [2, 2], datatype: 'UINT32', data: [1, 2, 3, 4] },
      // The specification has one value here for a shape of three.
      { name: 'input1', shape: [3], datatype: 'BOOL', data: [true, false, true] },
    ],
    outputs: [{ name: 'output0' }],
  })
  t.equal(status, 200)
  t.match(headers['content-type'], /^application\/json/)
  t.strictSame(body, {
    id: '42',
    model_name: 'mymodel',
    model_version: '1',
    outputs: [{ name: 'output0', shape: [3, 2], datatype: 'FP32', data: [1, 1.1, 2, 2.1, 3, 3.1] }],
  })
})

t.test('outputs come as they are asked for, in that order, or all in the order of the model', async t => {
  const wanted: unknown[] = []
  const one = { datatype: 'INT32', shape: [1], data: Int32Array.of(1) } as const
  const model: FakeModel = {
    name: 'm',
    inputs: [spec('x', 'FP32', ['batch', 3])],
    outputs: [spec('a', 'INT32', [1]), spec('b', 'INT32', [1]), spec('c', 'INT32', [1])],
    run: (_inputs, { outputs }) => {
      wanted.push(outputs)
      return { c: one, b: one, a: one }
    },
  }
  const app = await v2App(t, fakeModels([model]))
  const names = async (outputs?: object[]) => {
    const { body } = await infer(app, 'm', { ...input('FP32', [1, 3], [1, 2, 3]), outputs })
    return body.outputs.map(({ name }: { name: string }) => name)
  }
  t.strictSame(await names([{ name: 'c' }, { name: 'a', parameters: { unknown: 1 } }]), ['c', 'a'])
  t.strictSame(await names(), ['a', 'b', 'c'])
  t.strictSame(await names([]), ['a', 'b', 'c'])
  t.strictSame(wanted, [['c', 'a'], undefined, undefined])
  const both = { ...input('FP32', [1, 3], [1, 2, 3]), outputs: [{ name: 'a' }, { name: 'a' }] }
  t.match(await infer(app, 'm', both), { status: 400, body: { error: "outputs[1].name is 'a' once more" } })
})

t.test('parameters that nobody knows, and members that other servers know, are ignored', async t => {
  const app = await v2App(t, fakeModels([echo('FP32')]))
  const { status } = await infer(app, 'FP32', {
    model_name: 'other',
    model_version: '9',
    parameters: { priority: 1, sequence_id: 'a', anything: true },
    inputs: [{ name: 'x', shape: [1, 3], datatype: 'FP32', data: [1, 2, 3], parameters: { content_type: 'np' } }],
  })
  t.equal(status, 200)
})

t.test('an id comes back as it was, whatever is in it', async t => {
  const app = await v2App(t, fakeModels([echo('FP32')]))
  for (const id of ['', '42', '"}],\u2028\n\u0000é\ud83d\ude00']) {
    const { body } = await infer(app, 'FP32', { id, ...input('FP32', [1, 3], [1, 2, 3]) })
    t.equal(body.id, id)
  }
  t.notOk('id' in (await infer(app, 'FP32', input('FP32', [1, 3], [1, 2, 3]))).body)
  t.match(await infer(app, 'FP32', { id: 42, ...input('FP32', [1, 3], [1, 2, 3]) }), {
    status: 400,
    body: { error: 'id is 42; it takes a string' },
  })
})

t.test('models are listed by name, and by version with their state', async t => {
  const broken = [
    { name: 'torn', reason: '/srv/models/torn: nothing there' },
    { name: 'm', version: '2', reason: 'the file changed and does not load' },
  ]
  const app = await v2App(t, fakeModels([constant('m', '1', 1), constant('m', '2', 2), echo('FP32')], broken))
  t.strictSame((await ask(app, 'GET', '/v2/models')).body, { models: ['m', 'FP32'] })
  const ready = [
    { name: 'm', version: '2', state: 'READY', reason: '' },
    { name: 'm', version: '1', state: 'READY', reason: '' },
    { name: 'FP32', version: '1', state: 'READY', reason: '' },
  ]
  const torn = {
    name: 'torn',
    state: 'UNAVAILABLE',
    reason: 'it could not be loaded as it is in the folder; the log says why',
  }
  t.strictSame((await ask(app, 'POST', '/v2/repository/index')).body, [...ready, torn])
  t.strictSame((await ask(app, 'POST', '/v2/repository/index', {})).body, [...ready, torn])
  t.strictSame((await ask(app, 'POST', '/v2/repository/index', { ready: true })).body, ready)
  t.match(await ask(app, 'POST', '/v2/repository/index', { ready: 1 }), { status: 400, body: { error: /ready is 1/ } })
  t.match(await ask(app, 'POST', '/v2/repository/models/m/load'), { status: 404, body: { error: String } })
})

t.test('queue and compute time are told as under /v1', async t => {
  const app = await v2App(t, fakeModels([echo('FP32')]))
  const { headers } = await infer(app, 'FP32', input('FP32', [1, 3], [1, 2, 3]))
  t.equal(headers['server-timing'], 'queue;dur=0.50, compute;dur=1.25')
})

t.test('an input without data is refused, and so is a message without inputs', async t => {
  const app = await v2App(t, fakeModels([echo('FP32')]))
  t.match(await infer(app, 'FP32', { inputs: [withoutData] }), {
    status: 400,
    body: { error: 'inputs[0].data is missing; it takes a list, flat or nested as the shape' },
  })
  t.match(await infer(app, 'FP32', { id: '1' }), { status: 400, body: { error: /^inputs is missing/ } })
  t.match(await infer(app, 'FP32', { inputs: [] }), {
    status: 400,
    body: { error: 'inputs.x is missing; the model takes x FP32 [batch, 3]' },
  })
})

t.test('the schemas of the OpenAPI document fit what is sent', async t => {
  const models = fakeModels([echo('FP32')], [{ name: 'torn', reason: 'it is' }])
  const app = await v2App(t, models)
  const fits = (schema: keyof typeof schemas, status: 200 | 404 | 503, body: unknown) => {
    const response = (schemas[schema].response as Record<number, unknown>)[status]
    const { content } = response as { content: { 'application/json': { schema: TSchema } } }
    t.ok(Value.Check(content['application/json'].schema, body), `${schema} ${status}: ${JSON.stringify(body)}`)
  }
  fits('server', 200, (await ask(app, 'GET', '/v2')).body)
  fits('live', 200, (await ask(app, 'GET', '/v2/health/live')).body)
  fits('ready', 200, (await ask(app, 'GET', '/v2/health/ready')).body)
  fits('models', 200, (await ask(app, 'GET', '/v2/models')).body)
  fits('index', 200, (await ask(app, 'POST', '/v2/repository/index')).body)
  fits('model', 200, (await ask(app, 'GET', '/v2/models/FP32')).body)
  fits('model', 404, (await ask(app, 'GET', '/v2/models/none')).body)
  fits('modelReady', 200, (await ask(app, 'GET', '/v2/models/FP32/ready')).body)
  fits('modelReady', 503, (await ask(app, 'GET', '/v2/models/torn/ready')).body)
  const request = { id: '1', ...input('FP32', [1, 3], [1, 2, 3]), outputs: [{ name: 'y' }] }
  t.ok(Value.Check(schemas.infer.body.content['application/json'].schema, request))
  fits('infer', 200, (await infer(app, 'FP32', request)).body)
  fits('infer', 404, (await infer(app, 'none', request)).body)
})
