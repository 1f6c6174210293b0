/** API keys, for the people who run the service: made, listed, changed, revoked and rotated. */
import type { FastifyPluginAsync, FastifyRequest, onRequestAsyncHookHandler } from 'fastify'
import { type Static, Type } from 'typebox'
import { keyOfId, keyOfOwner } from '../auth.js'
import { badRequest, type InvalidValue, Refusal, unavailable } from '../http/problem.js'
import type { Models } from '../inference/types.js'
import type { IssuedKey, KeyChanges } from '../keys/key-changes.js'
import { fieldProblems, MOST_LABEL, momentOf } from '../keys/key-fields.js'
import { pageOf, placeOfCursor } from '../keys/key-page.js'
import { type KeyRecord, keyView } from '../keys/key-record.js'
import { KeyConflict, KeysUnavailable, TooManyRotations } from '../keys/key-store.js'
import type { Keyring } from '../keys/keyring.js'
import {
  ApiKey,
  answers,
  IssuedApiKey,
  Limits as LimitsSchema,
  list,
  Plans as PlansSchema,
} from '../openapi/schemas.js'
import type { Limits } from '../protection/limits.js'
import type { PlanPolicy } from '../protection/plans.js'
import { type AuditEvent, audit } from './audit.js'
import { policyView } from './limits.js'

interface KeyOptions {
  readonly models: Models
  readonly limits: Limits
  readonly keys: { readonly keyring: Keyring; readonly changes: KeyChanges }
  /** Lets pass who has the admin token. */
  readonly onRequest: onRequestAsyncHookHandler
}

const closed = { additionalProperties: false } as const

const Label = (description: string) => Type.String({ minLength: 1, maxLength: MOST_LABEL, description })
const Plan = Type.String({ maxLength: 32, description: 'A plan of the limits file.' })
const Name = Type.Union([Label('What its holder calls it.'), Type.Null()])
const ExpiresAt = Type.Union([
  Type.String({ maxLength: 40, description: 'ISO 8601 with a time zone, such as 2030-01-31T00:00:00Z.' }),
  Type.Null(),
])
const ModelNames = Type.Union([
  Type.Array(Type.String({ maxLength: 128 }), { minItems: 1, maxItems: 100, uniqueItems: true }),
  Type.Null(),
])

const CreateBody = Type.Object(
  {
    owner: Label('Whose key it is.'),
    plan: Plan,
    name: Type.Optional(Name),
    expiresAt: Type.Optional(ExpiresAt),
    models: Type.Optional(ModelNames),
  },
  closed,
)
const PatchBody = Type.Object(
  {
    plan: Type.Optional(Plan),
    name: Type.Optional(Name),
    expiresAt: Type.Optional(ExpiresAt),
    models: Type.Optional(ModelNames),
    disabled: Type.Optional(Type.Boolean()),
  },
  { ...closed, minProperties: 1 },
)
/** An hour of overlap is usual; a month is the most. */
const MOST_OVERLAP_S = 31 * 86_400
const RotateBody = Type.Union([
  Type.Object({ overlapSeconds: Type.Optional(Type.Integer({ minimum: 0, maximum: MOST_OVERLAP_S })) }, closed),
  Type.Null(),
])
const ListQuery = Type.Object(
  {
    owner: Type.Optional(Type.String({ maxLength: 128 })),
    plan: Type.Optional(Type.String({ maxLength: 32 })),
    disabled: Type.Optional(Type.Unsafe<'true' | 'false'>({ type: 'string', enum: ['true', 'false'] })),
    limit: Type.Optional(Type.String({ description: '1 to 1000; 100 by default.' })),
    cursor: Type.Optional(Type.String({ maxLength: 128, description: '`next` of the page before.' })),
  },
  closed,
)
const Params = Type.Object({ id: Type.String({ maxLength: 100 }) })

type OneKey = { Params: Static<typeof Params> }

const DEFAULT_LIMIT = 100
const BACK_MS = 1000

const documented = (
  operationId: string,
  summary: string,
  more: object,
  refusals: readonly number[],
  success: object,
  status: 200 | 201 | 204 = 200,
) => ({
  tags: ['Admin'],
  summary,
  operationId,
  security: [{ adminToken: [] }],
  ...more,
  response: answers({ success, status, refusals: [...new Set([401, 429, 503, ...refusals])].sort() }),
})

export const keyRoutes: FastifyPluginAsync<KeyOptions> = async (app, { models, limits, keys, onRequest }) => {
  const { keyring, changes } = keys
  const config = { rateLimit: false } as const

  /** Refuses what a schema cannot know: plans, models and times. */
  const check = (
    given: { owner?: string; name?: string | null } & Pick<Static<typeof PatchBody>, 'plan' | 'models' | 'expiresAt'>,
    isNew: boolean,
  ) => {
    const plans = limits.plans.map(({ name }) => name)
    const known = { plans, models: models.list().map(({ info }) => info.name), now: Date.now() }
    const problems: readonly InvalidValue[] = fieldProblems(given, known, isNew)
    if (problems.length > 0) throw new Refusal(badRequest('INVALID_REQUEST', problems))
    return given.expiresAt ? { ...given, expiresAt: momentOf(given.expiresAt) as string } : given
  }
  const issued = ({ record, key }: IssuedKey) => ({ ...keyView(record, Date.now()), key })
  /** Throws Refusal: 404 for an unknown key, 503 where the store cannot be asked about it. */
  const recordOf = async (request: FastifyRequest, id: string): Promise<KeyRecord> => {
    try {
      const found = await changes.find(id)
      if (found !== undefined) return found.record
    } catch (error) {
      if (!(error instanceof KeysUnavailable)) throw error
      request.log.error({ err: error }, 'an API key cannot be looked up')
      throw new Refusal(
        unavailable('KEYS_UNAVAILABLE', 'the store of the API keys cannot be asked at the moment', BACK_MS),
      )
    }
    throw unknownKey()
  }

  app.addHook('onRequest', onRequest)
  app.addHook('onSend', async (_request, reply) => {
    reply.header('cache-control', 'no-store')
  })

  app.post<{ Body: Static<typeof CreateBody> }>(
    '/v1/admin/keys',
    {
      config,
      schema: documented(
        'createKey',
        'Makes an API key, which is shown this once',
        { body: CreateBody },
        [400, 413, 415],
        IssuedApiKey,
        201,
      ),
    },
    async (request, reply) => {
      const fields = { ...request.body, ...check(request.body, true) }
      const { owner, plan } = fields
      const made = await told(request, changes.create(fields), 'key.create', { owner, plan })
      audit(request, 'key.create', { keyId: made.record.id, owner, plan })
      return reply.code(201).header('location', `/v1/admin/keys/${made.record.id}`).send(issued(made))
    },
  )

  app.get<{ Querystring: Static<typeof ListQuery> }>(
    '/v1/admin/keys',
    {
      config,
      schema: documented(
        'listKeys',
        'All API keys, page by page',
        { querystring: ListQuery },
        [400],
        list(ApiKey, 'keys'),
      ),
    },
    async ({ query }) => {
      const { owner, plan, disabled, limit, cursor } = query
      const after = cursor === undefined ? undefined : placeOfCursor(cursor)
      if (cursor !== undefined && after === undefined) {
        throw new Refusal(badRequest('INVALID_REQUEST', [{ path: 'cursor', message: 'takes the `next` of a page' }]))
      }
      if (limit !== undefined && !/^(?:[1-9]\d{0,2}|1000)$/.test(limit)) {
        throw new Refusal(badRequest('INVALID_REQUEST', [{ path: 'limit', message: 'takes an integer, 1 to 1000' }]))
      }
      const filter = { owner, plan, disabled: disabled === undefined ? undefined : disabled === 'true' }
      const page = pageOf(keyring.list(), filter, limit === undefined ? DEFAULT_LIMIT : Number(limit), after)
      const now = Date.now()
      return { keys: page.keys.map(record => keyView(record, now)), next: page.next ?? null }
    },
  )

  app.get<OneKey>(
    '/v1/admin/keys/:id',
    { config, schema: documented('getKey', 'One API key', { params: Params }, [404], ApiKey) },
    async request => keyView(await recordOf(request, request.params.id), Date.now()),
  )

  app.get<OneKey>(
    '/v1/admin/keys/:id/limits',
    {
      config,
      schema: documented(
        'keyLimits',
        'Where an API key stands; asking costs nothing',
        { params: Params },
        [404, 409],
        LimitsSchema,
      ),
    },
    async request => {
      const { id, owner, plan: planName } = await recordOf(request, request.params.id)
      const plan = limits.plans.find(({ name }) => name === planName)
      if (plan === undefined) {
        const detail = `the plan '${planName}' of this API key is no longer there`
        throw new Refusal({ status: 409, code: 'UNKNOWN_PLAN', detail })
      }
      const { policies } = await limits.standingOf({ key: keyOfId(id, owner), ownerKey: keyOfOwner(owner), plan })
      return { plan: plan.name, policies: policies.map(policyView) }
    },
  )

  app.get(
    '/v1/admin/plans',
    { config, schema: documented('plans', 'The plans that keys may have', {}, [], PlansSchema) },
    async () => ({
      plans: limits.plans.map(({ name, policies, concurrency, priority }) => ({
        name,
        policies: policies.map(policy => ({
          ...{ name: policy.name, unit: policy.unit, limit: policy.limit, ...windowOf(policy) },
          ...{ per: policy.per, models: policy.models ?? null },
        })),
        ...{ concurrency: concurrency ?? null, priority },
      })),
    }),
  )

  app.patch<OneKey & { Body: Static<typeof PatchBody> }>(
    '/v1/admin/keys/:id',
    {
      config,
      schema: documented(
        'patchKey',
        'Changes an API key',
        { params: Params, body: PatchBody },
        [400, 404, 409, 413, 415],
        ApiKey,
      ),
    },
    async request => {
      const { id } = request.params
      const patch = { ...request.body, ...check(request.body, false) }
      const changed = await told(request, changes.patch(id, patch), 'key.patch', { keyId: id })
      if (changed === undefined) throw unknownKey()
      const { before, after } = changed
      audit(request, 'key.patch', { keyId: id, changes: differences(before, after) })
      return keyView(after, Date.now())
    },
  )

  app.delete<OneKey>(
    '/v1/admin/keys/:id',
    {
      config,
      schema: documented('deleteKey', 'Revokes an API key for good', { params: Params }, [404, 409], Type.Null(), 204),
    },
    async (request, reply) => {
      const { id } = request.params
      const removed = await told(request, changes.remove(id), 'key.delete', { keyId: id })
      if (removed === undefined) throw unknownKey()
      audit(request, 'key.delete', { keyId: id })
      return reply.code(204).send()
    },
  )

  app.post<OneKey & { Body: Static<typeof RotateBody> }>(
    '/v1/admin/keys/:id/rotate',
    {
      config,
      schema: documented(
        'rotateKey',
        'Gives an API key a new text; the old one lives on for the overlap',
        { params: Params, body: RotateBody },
        [400, 404, 409, 413, 415],
        IssuedApiKey,
        201,
      ),
    },
    async (request, reply) => {
      const { overlapSeconds = 0 } = request.body ?? {}
      const { id } = request.params
      const details = { keyId: id, overlapSeconds }
      const made = await told(request, changes.rotate(id, overlapSeconds * 1000), 'key.rotate', details)
      if (made === undefined) throw unknownKey()
      audit(request, 'key.rotate', details)
      return reply.code(201).send(issued(made))
    },
  )
}

/** A window, or the period of a budget. */
const windowOf = ({ period, windowMs }: PlanPolicy) =>
  period === undefined ? { windowSeconds: windowMs / 1000 } : { period }

const unknownKey = () => new Refusal({ status: 404, code: 'KEY_NOT_FOUND', detail: 'there is no API key with this id' })

/** Turns what the store of the keys fails with into what the caller is told. */
async function told<T>(request: FastifyRequest, change: Promise<T>, event: AuditEvent, details: object): Promise<T> {
  try {
    return await change
  } catch (error) {
    if (error instanceof KeyConflict) {
      throw new Refusal({
        status: 409,
        code: 'KEY_CONFLICT',
        detail: 'others change this API key; read it and try again',
      })
    }
    if (error instanceof TooManyRotations) {
      throw new Refusal({ status: 409, code: 'TOO_MANY_ROTATIONS', detail: error.message })
    }
    if (!(error instanceof KeysUnavailable)) throw error
    const detail = 'the store of the API keys cannot be asked at the moment; the change may or may not have been made'
    request.log.error({ err: error }, 'a change of the API keys failed')
    audit(request, event, { ...details, outcome: 'unknown' })
    throw new Refusal(unavailable('KEYS_UNAVAILABLE', detail, BACK_MS))
  }
}

/** What a patch changed, as [before, after]. */
function differences(before: KeyRecord, after: KeyRecord): object {
  const fields = ['plan', 'name', 'expiresAt', 'models', 'disabled'] as const
  return Object.fromEntries(
    fields
      .filter(field => JSON.stringify(before[field]) !== JSON.stringify(after[field]))
      .map(field => [field, [before[field], after[field]]]),
  )
}
