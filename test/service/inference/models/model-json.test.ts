import t from 'tap'
import { parseModelJson } from '../../../../service/src/inference/models/model-json.js'

const parse = (value: unknown) => parseModelJson(JSON.stringify(value))

t.test('a complete model.json is taken as it is', async t => {
  const json = {
    description: 'digits',
    labels: ['0', '1'],
    testAccuracy: 0.98,
    testRows: 360,
    sample: [0, 1],
    source: 'https://example.org',
    license: 'CC BY 4.0',
    batching: true,
    maxBatchRows: 16,
    threads: 2,
    workers: 1,
  }
  t.strictSame(parse(json), { json, unknown: [] })
  t.strictSame(parse({}), { json: {}, unknown: [] })
})

t.test('fields that are not known are left out and named', async t => {
  t.strictSame(parse({ trainedAt: '2026', license: 'MIT' }), { json: { license: 'MIT' }, unknown: ['trainedAt'] })
})

t.test('a wrong field is refused with its value and what it takes', async t => {
  const wrong: [object, RegExp][] = [
    [{ labels: 'a,b' }, /'labels' is "a,b"; it takes a list of strings, one a class/],
    [{ labels: [] }, /'labels' is \[\]/],
    [{ labels: ['a', 1] }, /'labels' is \["a",1\]/],
    [{ testAccuracy: 98 }, /'testAccuracy' is 98; it takes a number from 0 to 1/],
    [{ testRows: -1 }, /'testRows'/],
    [{ description: 1 }, /'description' is 1; it takes a string/],
    [{ sample: null }, /'sample' is null; it takes one row/],
    [{ threads: 0 }, /'threads' is 0; it takes an integer from 1 to 256/],
    [{ workers: 1.5 }, /'workers'/],
    [{ maxBatchRows: '8' }, /'maxBatchRows' is "8"/],
    [{ batching: 'no' }, /'batching' is "no"; it takes true or false/],
    [{ labels: 'x'.repeat(200) }, /…; it takes/],
  ]
  for (const [json, message] of wrong) t.throws(() => parse(json), { message }, JSON.stringify(json).slice(0, 40))
  t.throws(() => parseModelJson('{'), { message: /^model.json is not JSON: / })
  t.throws(() => parseModelJson('[]'), { message: 'model.json is not an object' })
  t.throws(() => parseModelJson('null'), { message: 'model.json is not an object' })
})

t.test('fields of sessions, features and versions are checked by name', async t => {
  const wrong = (json: object, message: RegExp) => t.throws(() => parseModelJson(JSON.stringify(json)), { message })
  wrong({ session: { executionProviders: ['gpu'] } }, /'session' is .*as 'executionProviders' a list of cuda/)
  wrong({ session: { speed: 1 } }, /'speed' is none of them/)
  wrong({ session: { onMissingProvider: 'cry' } }, /one of fallback, refuse/)
  wrong({ features: ['a', 'a'] }, /'features' is .*each of its own/)
  wrong({ features: [{ name: 'a', categories: 'x' }] }, /as 'categories' a list of different texts/)
  wrong({ features: [{ name: 'a', categories: ['x', 'x'] }] }, /as 'categories' a list of different texts/)
  wrong({ cost: [] }, /'cost' is \[\]; it takes/)
  wrong({ split: { one: 1 } }, /'split' .*weights by version/)
  wrong({ split: { '1': 0 } }, /weights by version/)
  wrong({ shadow: { share: 1 } }, /with 'version'/)
  wrong({ shadow: { version: '1', share: 2 } }, /as 'share' a number from 0 to 1/)
  wrong({ defaultVersion: 2 }, /a version as a text/)
  const { json, unknown } = parseModelJson(
    JSON.stringify({ session: { executionProviders: ['cuda', { name: 'cpu' }] }, selfCheck: false, batching: true }),
  )
  t.match(json, { selfCheck: false, batching: true })
  t.strictSame(unknown, [])
})
