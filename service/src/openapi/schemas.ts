/** What the OpenAPI document says of answers, in one place: the schemas of the routes themselves are put together from it. */
import { STATUS_CODES } from 'node:http'
import { type TSchema, Type } from 'typebox'
import { ERRORS } from './errors.js'

/** RFC 9457, with the members that this service adds. */
export const Problem = Type.Object(
  {
    type: Type.String({ description: 'A URI for the kind of problem; about:blank if the status says enough.' }),
    title: Type.String(),
    status: Type.Integer(),
    detail: Type.String({ description: 'What was wrong, and what would be right.' }),
    instance: Type.String({ description: 'The id of this answer; the log has the same id.' }),
    code: Type.String({ description: 'For programs; never changes.', enum: ERRORS.map(([, code]) => code) }),
    errors: Type.Optional(
      Type.Array(Type.Object({ path: Type.String(), message: Type.String() }), {
        description: 'Only with status 400.',
      }),
    ),
    'violated-policies': Type.Optional(Type.Array(Type.String(), { description: 'Only with status 429.' })),
    retryAfter: Type.Optional(Type.Number({ description: 'Seconds after which to ask again.' })),
  },
  { additionalProperties: true },
)

const header = (type: string, description: string) => ({ type, description })

const RETRY_AFTER = {
  'retry-after': header('integer', 'Seconds after which another try makes sense.'),
  'retry-after-ms': header('integer', 'The same in milliseconds.'),
}

const ETAG = { etag: header('string', 'Identifies this state of the document; send it as `if-none-match` next time.') }

/** Of every answer of a limited route. */
const QUOTA_HEADERS = {
  'x-ratelimit-limit': header('integer', 'Quota of the policy that binds.'),
  'x-ratelimit-remaining': header('integer', 'What is left of it.'),
  'x-ratelimit-reset': header('integer', 'Seconds until more of it comes back.'),
  ratelimit: header(
    'string',
    'What is left of each policy: "requests";r=99;t=60 (draft-ietf-httpapi-ratelimit-headers).',
  ),
  'ratelimit-policy': header('string', 'The policies: "requests";q=100;w=60 (the same draft).'),
}

const MEANS: Readonly<Record<number, string>> = {
  304: 'The document is still the one that `if-none-match` names.',
  400: 'The request is malformed or does not fit; `detail` and `errors` say what was wrong and what would be right.',
  401: 'The token or key is missing or wrong.',
  403: 'The caller may not use this model.',
  404: 'There is no such URL, model, version or key; the answer lists the existing ones.',
  405: 'The URL takes other methods, which the header `allow` lists.',
  409: 'The current state does not allow it; `detail` says why.',
  413: 'The body is too long, or the request has too many rows.',
  415: 'The route does not take this type of body.',
  429: 'A quota is used up, or the service is overloaded. `retry-after` says when another try makes sense.',
  500: 'A bug in the service.',
  503: 'The service is stopping, is not ready, or cannot serve.',
  504: 'The answer did not come in time.',
}

export interface Answers {
  /** Schema of the success. */
  readonly success: object
  /** Statuses of refusals. */
  readonly refusals: readonly number[]
  /** Whether the route is limited, and says so in its headers. */
  readonly limited?: boolean
  /** Form of the refusals: a problem document, or what the protocol of the route prescribes. */
  readonly refusal?: { readonly type: string; readonly schema: object; readonly headers?: object }
  /** Status of the success; 200 by default. A success of 204 has no body. */
  readonly status?: 200 | 201 | 204
  /** Media type of the success. */
  readonly type?: string
  /** Whether it has an `etag`, by which a caller that has it already spares itself the rest. */
  readonly unchanged?: boolean
}

/** The `response` of a route's schema. */
export function answers(wanted: Answers) {
  const {
    success,
    refusals,
    limited = false,
    refusal,
    type = 'application/json',
    unchanged = false,
    status: done = 200,
  } = wanted
  const form = refusal ?? { type: 'application/problem+json', schema: Problem }
  const quota = limited ? QUOTA_HEADERS : {}
  const validator = unchanged ? ETAG : {}
  const refused = (status: number) => ({
    description: `${STATUS_CODES[status]}. ${MEANS[status]}`,
    headers: { ...quota, ...refusal?.headers, ...(status === 429 || status === 503 ? RETRY_AFTER : {}) },
    content: { [form.type]: { schema: form.schema } },
  })
  return Object.fromEntries<object>([
    [
      done,
      {
        description: STATUS_CODES[done],
        headers: { ...quota, ...validator },
        ...(done === 204 ? {} : { content: { [type]: { schema: success } } }),
      },
    ],
    ...(unchanged ? [[304, { description: MEANS[304], headers: { ...quota, ...validator } }] as const] : []),
    ...refusals.map((status): [number, object] => [status, refused(status)]),
  ])
}

/** The header by which a caller asks for an answer in less time. */
export const TimeoutHeader = Type.Object({
  'x-request-timeout-ms': Type.Optional(Type.String({ description: 'Milliseconds that the caller waits, 1 or more.' })),
})

const Dimension = Type.Union([Type.Integer(), Type.String()], {
  description: 'A size, or the name of a dimension that varies.',
})

const Tensor = Type.Object({ name: Type.String(), datatype: Type.String(), shape: Type.Array(Dimension) })

export const ModelDescription = Type.Object(
  {
    name: Type.String(),
    version: Type.String(),
    versions: Type.Array(Type.String()),
    description: Type.Optional(Type.String()),
    inputs: Type.Array(Tensor),
    outputs: Type.Array(Tensor),
    features: Type.Optional(
      Type.Array(Type.Unknown(), { description: 'Names of the values of a row, or of the inputs.' }),
    ),
    labels: Type.Optional(Type.Array(Type.String())),
    cost: Type.Optional(
      Type.Object(
        { request: Type.Optional(Type.Integer()), row: Type.Optional(Type.Integer()) },
        { description: 'Credits of each request, and of each of its rows.' },
      ),
    ),
    defaultVersion: Type.Optional(Type.String({ description: 'The version that answers if a request names none.' })),
    split: Type.Optional(
      Type.Record(Type.String(), Type.Number(), { description: 'Shares of the callers by version, from 0 to 1.' }),
    ),
    shadow: Type.Optional(
      Type.Object(
        { version: Type.String(), share: Type.Number() },
        { additionalProperties: true, description: 'A version that runs in the shadow, and how its answers differ.' },
      ),
    ),
    testAccuracy: Type.Optional(Type.Number({ description: 'Share of held-out rows that were predicted correctly.' })),
    sample: Type.Optional(
      Type.Object(
        {},
        { additionalProperties: true, description: 'A body that POST /v1/predict takes, if no longer than 2 KB.' },
      ),
    ),
    sampleUrl: Type.String({ description: 'URL of the sample, also if it is longer.' }),
    batching: Type.Object({ enabled: Type.Boolean() }, { additionalProperties: true }),
  },
  { additionalProperties: true },
)

export const Predictions = Type.Object({
  model: Type.String(),
  version: Type.String(),
  predictions: Type.Array(
    Type.Object({
      label: Type.Optional(Type.String({ description: 'The class, if the labels are known.' })),
      score: Type.Optional(
        Type.Union([Type.Number(), Type.String()], { description: 'The value of the model for that class.' }),
      ),
      outputs: Type.Record(Type.String(), Type.Unknown(), { description: 'By name, without the batch dimension.' }),
    }),
    { description: 'One for each row, in order.' },
  ),
})

const Period = Type.Union([Type.Literal('day'), Type.Literal('month')], {
  description: 'Only for a budget, instead of a window: a calendar period in UTC.',
})

export const Limits = Type.Object({
  plan: Type.String(),
  policies: Type.Array(
    Type.Object({
      name: Type.String(),
      unit: Type.String(),
      limit: Type.Number(),
      remaining: Type.Number(),
      windowSeconds: Type.Optional(Type.Number({ description: 'Only for a sliding window.' })),
      period: Type.Optional(Period),
      resetSeconds: Type.Number(),
      per: Type.Optional(Type.Literal('owner', { description: 'All keys of the owner share it.' })),
      models: Type.Optional(
        Type.Array(Type.String(), { description: 'Only requests for these models count; by default all.' }),
      ),
    }),
  ),
})

export const UsageReport = Type.Object({
  from: Type.String({ format: 'date-time' }),
  to: Type.String({ format: 'date-time', description: 'Not included.' }),
  rows: Type.Array(
    Type.Object(
      {
        requests: Type.Integer({ description: 'Successful requests.' }),
        rows: Type.Integer({ description: 'Rows of these requests.' }),
        computeMs: Type.Number({ description: 'Milliseconds that models ran.' }),
        refused: Type.Record(Type.String(), Type.Integer(), { description: 'Refused requests, by the code.' }),
      },
      { additionalProperties: true, description: 'With the model, day, hour, key or owner that it belongs to.' },
    ),
  ),
})

const orNull = (type: TSchema) => Type.Union([type, Type.Null()])

const keyFields = {
  id: Type.String(),
  shown: Type.String({ description: 'The part of the key that may be shown.' }),
  owner: Type.String(),
  plan: Type.String(),
  name: orNull(Type.String()),
  models: orNull(Type.Array(Type.String())),
  expiresAt: orNull(Type.String({ format: 'date-time' })),
  disabled: Type.Boolean(),
  standing: Type.Union([Type.Literal('active'), Type.Literal('disabled'), Type.Literal('expired')]),
  createdAt: Type.String({ format: 'date-time' }),
  updatedAt: Type.String({ format: 'date-time' }),
  outgoing: Type.Array(Type.Object({ expiresAt: Type.String({ format: 'date-time' }) }), {
    description: 'Old keys that still work after a rotation.',
  }),
}

export const ApiKey = Type.Object(keyFields)

export const IssuedApiKey = Type.Object({ ...keyFields, key: Type.String({ description: 'Shown only once.' }) })

export const Plans = Type.Object({
  plans: Type.Array(
    Type.Object({
      name: Type.String(),
      policies: Type.Array(
        Type.Object({
          name: Type.String(),
          unit: Type.String(),
          limit: Type.Number(),
          windowSeconds: Type.Optional(Type.Number()),
          period: Type.Optional(Period),
          per: Type.String(),
          models: orNull(Type.Array(Type.String())),
        }),
      ),
      concurrency: orNull(Type.Integer()),
      priority: Type.Integer(),
    }),
  ),
})

export const list = (items: TSchema, name: string) => Type.Object({ [name]: Type.Array(items) })
