import { Validator } from '@seriousme/openapi-schema-validator'
import { OpenAPIClientAxios } from 'openapi-client-axios'
import t, { type Test } from 'tap'
import { buildService } from '../support/build.js'
import { ElementType } from '../support/onnx-builder.js'
import { openFolder, writeModels } from '../support/onnx-folder.js'
import { identity, twoInputs } from '../support/onnx-models.js'

interface Operation {
  readonly operationId: string
  readonly requestBody?: {
    readonly content: Record<string, { example?: object; examples?: Record<string, { value: object }> }>
  }
  readonly responses: Record<string, { headers?: object; content: Record<string, { schema: object }> }>
}

interface Document {
  readonly openapi: string
  readonly paths: Record<string, Record<string, Operation>>
}

type Ask = Awaited<ReturnType<typeof buildService>>['ask']

const documentOf = async (ask: Ask): Promise<Document> => (await ask({ method: 'GET', url: '/openapi.json' })).json()

async function isValid(t: Test, document: Document): Promise<void> {
  const { valid, errors } = await new Validator().validate(structuredClone(document) as never)
  t.ok(valid, JSON.stringify(errors))
}

const operations = ({ paths }: Document) =>
  Object.entries(paths).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]) => ({ path, method: method.toUpperCase(), operation })),
  )

t.test('the document is valid OpenAPI 3.1 and has every route that there is, and no other', async t => {
  const { app, ask } = await buildService(t, { ADMIN_TOKEN: 'a-token-that-nobody-knows' })
  const document = await documentOf(ask)
  t.equal(document.openapi, '3.1.0')
  await isValid(t, document)
  const documented = operations(document).map(({ path, method }) => `${method} ${path.replaceAll(/\{(\w+)\}/g, ':$1')}`)
  const general = documented.filter(route => !/models\/(?:iris|digits|digits-picture|digits-wide)\//.test(route))
  const routes = app.knownRoutes.filter(route => !/ \/(?:docs|playground|console|openapi\.json|$)/.test(route))
  t.strictSame(general.sort(), [...routes].sort())
  const ids = operations(document).map(({ operation }) => operation.operationId)
  t.equal(new Set(ids).size, ids.length, 'operations have names of their own')
})

t.test('every model has its own schema, and every sample in the document is answered', async t => {
  const { models } = await openFolder(t, {
    'iris-like/1/model.onnx': identity(ElementType.FLOAT, ['batch', 3]),
    'pair/1/model.onnx': twoInputs(),
    'long/1/model.onnx': identity(ElementType.INT64, ['batch', 2, 2]),
    'words/1/model.onnx': identity(ElementType.STRING, ['batch', 'length']),
  })
  const { ask } = await buildService(t, { RATE_LIMIT_MAX: 1000 }, models)
  const document = await documentOf(ask)
  await isValid(t, document)
  const sampled: string[] = []
  for (const { path, operation } of operations(document)) {
    const { example, examples = {} } = operation.requestBody?.content['application/json'] ?? {}
    for (const payload of [example, ...Object.values(examples).map(({ value }) => value)]) {
      if (payload === undefined) continue
      sampled.push(path)
      const { statusCode, body } = await ask({ method: 'POST', url: path, payload })
      t.equal(statusCode, 200, `${path}: ${body}`)
    }
  }
  for (const name of ['iris-like', 'pair', 'long', 'words']) {
    t.ok(sampled.includes(`/v1/models/${name}/predict`), name)
    t.ok(sampled.includes(`/v2/models/${name}/infer`), name)
  }
  t.equal(sampled.filter(path => path === '/v1/predict').length, 4, 'a sample for each model where the body names it')
})

t.test('limited routes tell of their headers, refusals of their form', async t => {
  const { ask } = await buildService(t)
  const { paths } = await documentOf(ask)
  const predict = paths['/v1/models/iris/predict']?.post as Operation
  t.match(Object.keys(predict.responses['429']?.headers ?? {}), ['x-ratelimit-limit', 'x-ratelimit-remaining'])
  t.ok('retry-after' in (predict.responses['429']?.headers ?? {}))
  t.ok('application/problem+json' in (predict.responses['400']?.content ?? {}))
  const infer = paths['/v2/models/iris/infer']?.post as Operation
  t.match(infer.responses['429']?.content, { 'application/json': { schema: { properties: { error: {} } } } })
  for (const { path, operation } of operations({ openapi: '', paths })) {
    if ('429' in operation.responses) t.ok('401' in operation.responses, `${path} can refuse a key`)
  }
  t.notOk('/v1/admin/reload' in paths, 'there are no admin routes without a token')
})

t.test('a model that a reload brings is in the document at once, one that it takes is not', async t => {
  const { models, dir } = await openFolder(t, { 'first/1/model.onnx': identity() })
  const { ask } = await buildService(t, {}, models)
  const of = async () => Object.keys((await documentOf(ask)).paths).filter(path => path.endsWith('/predict'))
  t.notOk((await of()).includes('/v1/models/second/predict'))
  writeModels(dir, { 'second/1/model.onnx': identity() })
  await models.reload()
  t.ok((await of()).includes('/v1/models/second/predict'))
})

t.test('a client that is driven by the document makes a prediction', async t => {
  const { app, ask } = await buildService(t)
  await app.listen({ host: '127.0.0.1', port: 0 })
  const { port } = app.server.address() as { port: number }
  const definition = (await documentOf(ask)) as never
  const api = new OpenAPIClientAxios({ definition, withServer: { url: `http://127.0.0.1:${port}` } })
  const client = (await api.init()) as unknown as Record<string, (...args: unknown[]) => Promise<{ data: object }>>
  const body = { features: [5.1, 3.5, 1.4, 0.2] }
  t.match((await client['predict-iris']?.(null, body))?.data, { predictions: [{ label: 'setosa' }] })
  t.match((await client.predictWithModel?.({ name: 'iris' }, body))?.data, { predictions: [{ label: 'setosa' }] })
})

t.test('the reference is a page of our own origin, and not limited', async t => {
  const { ask } = await buildService(t, { RATE_LIMIT_MAX: 0 })
  const page = await ask({ method: 'GET', url: '/docs' })
  t.equal(page.statusCode, 200)
  t.match(page.headers['content-security-policy'], /^default-src 'none'; script-src 'self';/)
  const assets = [...page.body.matchAll(/(?:src|href)="([^"]+)"/g)].map(([, url]) => url as string)
  t.ok(assets.length > 3)
  for (const url of [...assets, '/docs/json', '/openapi.json']) {
    t.match(url, /^\//)
    t.equal((await ask({ method: 'GET', url })).statusCode, 200, url)
  }
  t.strictSame((await ask({ method: 'GET', url: '/docs/json' })).json(), await documentOf(ask))
  t.match(
    (await ask({ method: 'GET', url: '/v1/models' })).headers['content-security-policy'],
    /^default-src 'none'; frame/,
  )
})

t.test('the document is there as JSON alone, since YAML would cost everybody else', async t => {
  const { ask } = await buildService(t)
  t.equal((await ask('/docs/json')).statusCode, 200)
  t.equal((await ask('/docs/yaml')).statusCode, 404)
})
