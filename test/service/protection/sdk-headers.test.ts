import t from 'tap'
import { inGoForm } from '../../../service/src/protection/sdk-headers.js'
import { buildService, IRIS } from '../../support/build.js'
import { onePlan, rowsOf } from '../../support/limits-file.js'

t.test('SDK_HEADERS=openai adds the headers that its clients parse, of what binds in each unit', async t => {
  const LIMITS_FILE = onePlan(t, [
    { name: 'burst', limit: 3, window: '1 minute' },
    { name: 'daily', limit: 100, window: '1 day' },
    { name: 'rows', unit: 'rows', limit: 10, window: '1 hour' },
    { name: 'compute', unit: 'compute-ms', limit: 5000, window: '1 hour' },
  ])
  const { predict, ask } = await buildService(t, { LIMITS_FILE, SDK_HEADERS: 'openai' })
  const { headers } = await predict(rowsOf(4))
  t.match(headers, {
    'x-ratelimit-limit-requests': '3',
    'x-ratelimit-remaining-requests': '2',
    'x-ratelimit-reset-requests': /^(1m0s|\d+s)$/,
    'x-ratelimit-limit-rows': '10',
    'x-ratelimit-remaining-rows': '6',
    'x-ratelimit-reset-rows': /^(1h0m0s|59m\d+s)$/,
    'x-ratelimit-limit-compute': '5000',
    'x-ratelimit-remaining-compute': /^\d+$/,
    'x-ratelimit-reset-compute': /^(1h0m0s|59m\d+s)$/,
    ratelimit: /"burst";r=2/,
    'x-ratelimit-limit': '3',
  })
  const stream = await ask({
    method: 'POST',
    url: '/v1/models/iris/predict',
    headers: { 'content-type': 'text/csv' },
    payload: 'sepal_length,sepal_width,petal_length,petal_width\n5,3,1,0\n',
    remoteAddress: '198.51.100.7',
  })
  t.match(stream.headers, {
    'x-ratelimit-remaining-requests': '2',
    'x-ratelimit-limit-rows': '10',
    'x-ratelimit-remaining-rows': '9',
  })
  const denied = await predict(rowsOf(7))
  t.equal(denied.statusCode, 429)
  t.equal(denied.headers['x-ratelimit-remaining-rows'], '6')
  await predict(IRIS)
  const over = await predict(IRIS)
  t.equal(over.statusCode, 429)
  t.equal(over.headers['x-ratelimit-remaining-requests'], '0')

  const off = await buildService(t, { LIMITS_FILE })
  t.notOk('x-ratelimit-limit-requests' in (await off.predict(IRIS)).headers, 'only where it is asked for')
})

t.test('a duration is written as Go does', async t => {
  for (const [ms, text] of [
    [0, '0s'],
    [20, '1s'],
    [999.5, '1s'],
    [1000, '1s'],
    [1001, '2s'],
    [360_000, '6m0s'],
    [3_599_001, '1h0m0s'],
    [86_400_000, '24h0m0s'],
  ] as const) {
    t.equal(inGoForm(ms), text)
  }
})
