/** What is sent in a soak, and what each request must get: nothing else counts as its answer. */

/** A setosa and, with the odd numbers, a virginica: an answer to another request shows. */
const FEATURES = [5.1, 3.5, 1.4, 0.2]

export const KEYS = { ample: 'soak-ample', tight: 'soak-tight' }

export const LIMITS = {
  ample: { policies: [{ name: 'ample', limit: 1_000_000_000, window: '10s' }] },
  tight: { policies: [{ name: 'tight', limit: 50, window: '1s' }] },
}

const isDenial = ({ status, headers, body }) =>
  status === 429 &&
  headers['retry-after'] === '1' &&
  headers['content-type'] === 'application/problem+json' &&
  body.code === 'ML_RATE_QUOTA_EXCEEDED' &&
  body['violated-policies'].join() === 'tight'

const isSetosa = ({ status, body }) =>
  status === 200 && body.model === 'iris' && body.predictions.length === 1 && body.predictions[0].label === 'setosa'

const rowOf = n => (n % 2 === 0 ? FEATURES : [6.3, 3.3, 6.0, 2.5])

const json = { 'content-type': 'application/json' }
const keyed = key => ({ ...json, 'x-api-key': key })

/** The nth request: mostly those that must be served, then those over their limit, then one in a hundred that is broken. */
export function requestOf(n) {
  const kind = n % 100
  if (kind === 0) {
    return {
      kind: 'broken',
      path: '/v1/predict',
      headers: keyed(KEYS.ample),
      body: n % 200 === 0 ? '{"model":"iris","features":[1,' : '{"model":"iris","features":[1,null,3,4]}',
      holds: ({ status, body }) => status === 400 && body.errors !== null && typeof body.detail === 'string',
    }
  }
  if (kind < 30) {
    const answer = {
      path: '/v1/predict',
      headers: keyed(KEYS.tight),
      body: JSON.stringify({ model: 'iris', features: FEATURES }),
    }
    return { kind: 'over the limit', ...answer, holds: got => isDenial(got) || isSetosa(got) }
  }
  // The protocol gives back the id of its request.
  const id = `soak-${n}`
  const inputs = [{ name: 'measurements', shape: [1, 4], datatype: 'FP32', data: rowOf(n) }]
  return {
    kind: 'served',
    path: '/v2/models/iris/infer',
    headers: keyed(KEYS.ample),
    body: JSON.stringify({ id, inputs }),
    holds: ({ status, body }) => status === 200 && body.id === id && isLikely(body.outputs, n % 2 === 0 ? 0 : 2),
  }
}

/** Whether the model is sure that it is this class. */
const isLikely = (outputs, index) =>
  outputs.some(({ data }) => Array.isArray(data) && data.length === 3 && data[index] > 0.5)
