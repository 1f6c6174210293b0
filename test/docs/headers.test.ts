/** The answers that docs/headers-and-errors.md shows as `http` and `json`, brought about. */
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'
import t from 'tap'
import { codeBlocks, readPage } from './markdown.js'

const blocks = codeBlocks(readPage('docs/headers-and-errors.md'))
const [admitted, denied, ...others] = blocks.filter(({ language }) => language === 'http')
const [body, ...otherBodies] = blocks.filter(({ language }) => language === 'json')

interface Shown {
  readonly status: number
  readonly headers: Readonly<Record<string, string>>
  readonly body: string
}

function shown(message: string): Shown {
  const [head = '', body = ''] = message.split('\n\n')
  const [status = '', ...fields] = head.trim().split('\n')
  const headers = fields.map(field => [
    field.slice(0, field.indexOf(':')).toLowerCase(),
    field.slice(field.indexOf(':') + 2),
  ])
  return { status: Number(status.split(' ')[1]), headers: Object.fromEntries(headers), body: body.trim() }
}

t.test('the admitted and the denied request', async t => {
  let ms = 1e12
  t.intercept(Date, 'now', { value: () => ms, configurable: true })
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, {
    policies: [
      { name: 'burst', max: 10, timeWindow: '1 second' },
      { name: 'daily', max: 5000, timeWindow: '1 day', cost: request => Number(request.headers.cost ?? 1) },
    ],
  })
  app.get('/', async () => 'ok')
  // It leaves the daily window an hour after the next ones came.
  await app.inject({ url: '/', headers: { cost: '196' } })
  ms += 23 * 3600_000 + 500
  let answer = await app.inject('/')
  for (let i = 0; i < 2; i++) answer = await app.inject('/')
  t.strictSame(others.length, 0)
  const isShown = (message: string | undefined) => {
    const { status, headers, body } = shown(message ?? '')
    t.equal(answer.statusCode, status)
    t.match(Object.fromEntries(Object.entries(answer.headers).map(([name, value]) => [name, String(value)])), headers)
    if (body !== '') t.equal(answer.body, body)
  }
  isShown(admitted?.code)
  ms += 600
  for (let i = 0; i < 8; i++) answer = await app.inject('/')
  isShown(denied?.code)
})

t.test('the body of a 429', async t => {
  const app = Fastify()
  t.teardown(() => app.close())
  await app.register(rateLimit, { max: 0, timeWindow: '1 minute' })
  app.get('/', async () => 'ok')
  t.strictSame(otherBodies, [])
  t.strictSame((await app.inject('/')).json(), JSON.parse(body?.code ?? ''))
})
