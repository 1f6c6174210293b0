/** What the page asks of the service. Every answer tells who listens what the caller's quota is now. */

/** The policies of a list field such as `"burst";r=7;t=1, "daily";r=4801;t=3600`, by name. */
export function quotaOf(headers) {
  const quota = new Map()
  for (const [, name, parameters] of (headers.get('ratelimit') ?? '').matchAll(/"([^"]*)"((?:;\w+=-?\d+)*)/g)) {
    const { r, t } = Object.fromEntries(
      [...parameters.matchAll(/(\w+)=(-?\d+)/g)].map(([, key, value]) => [key, +value]),
    )
    quota.set(name, { remaining: r, resetSeconds: t })
  }
  return quota
}

const listeners = []

/** Called with each answer of `predict`. */
export const onAnswer = listener => listeners.push(listener)

/** Sends a body, an object or JSON text. Status 0: the service could not be reached. */
export async function predict(body) {
  const from = performance.now()
  const answer = await ask(body)
  answer.ms = performance.now() - from
  for (const listener of listeners) listener(answer)
  return answer
}

/** Sends a picture to a model that takes them. */
export async function predictPicture(model, picture) {
  const from = performance.now()
  const answer = await ask(picture, `/v1/models/${encodeURIComponent(model)}/predict`, picture.type)
  answer.ms = performance.now() - from
  for (const listener of listeners) listener(answer)
  return answer
}

async function ask(body, url = '/v1/predict', type = 'application/json') {
  try {
    const response = await fetch(url, {
      method: 'POST',
      headers: { 'content-type': type },
      body: typeof body === 'string' || body instanceof Blob ? body : JSON.stringify(body),
    })
    const retryAfter = Number(response.headers.get('retry-after') ?? 0)
    return { status: response.status, retryAfter, quota: quotaOf(response.headers), json: await response.json() }
  } catch (error) {
    return { status: 0, retryAfter: 0, quota: new Map(), json: { detail: `no answer: ${error.message}` } }
  }
}

async function get(url) {
  const response = await fetch(url)
  if (!response.ok) throw new Error(`${url} answered ${response.status}`)
  return response.json()
}

/** A body that the model takes. A long one is asked for by itself, and counts as a request. */
export const sampleOf = async ({ sample, sampleUrl }) => sample ?? (await get(sampleUrl))

export const readModels = async () => (await get('/v1/models')).models
export const readLimits = async () => (await get('/v1/limits')).policies
