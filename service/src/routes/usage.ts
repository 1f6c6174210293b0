/** What was used: for its user, and for the people who run the service. */
import type { FastifyPluginAsync, FastifyReply, FastifyRequest, onRequestAsyncHookHandler } from 'fastify'
import { type Static, Type } from 'typebox'
import { prefersCsv } from '../http/accept.js'
import { badRequest, Refusal, unavailable } from '../http/problem.js'
import { momentOf } from '../keys/key-fields.js'
import { answers, UsageReport as ReportSchema } from '../openapi/schemas.js'
import type { Peers } from '../processes/peers.js'
import type { Limits } from '../protection/limits.js'
import { HOUR_MS, hourOf } from '../usage/entry.js'
import type { UsageMeter } from '../usage/usage-meter.js'
import { csvOf, reportOf, type UsageGroup } from '../usage/usage-report.js'
import type { UsageStore } from '../usage/usage-store.js'

export interface UsageOptions {
  readonly limits: Limits
  readonly meter: UsageMeter
  readonly store: UsageStore
  /** How long usage is kept. */
  readonly days: number
  /** Lets pass who has the admin token; undefined: there are no routes for them. */
  readonly onAdminRequest: onRequestAsyncHookHandler | undefined
  /** The other processes of the service, which count as well; undefined where this is the only one. */
  readonly peers: Pick<Peers, 'ask' | 'answer'> | undefined
}

const DAY_HOURS = 24
/** What is told when nobody says from when. */
const DEFAULT_DAYS = 30

const moment = (description: string) => Type.Optional(Type.String({ maxLength: 40, description }))
const queryOf = (groups: readonly UsageGroup[], fallback: UsageGroup) =>
  Type.Object(
    {
      from: moment('ISO 8601; 30 days ago by default.'),
      to: moment('ISO 8601, not included; a date alone is included. Now by default.'),
      by: Type.Optional(
        Type.Unsafe<UsageGroup>({ type: 'string', enum: groups, description: `\`${fallback}\` by default.` }),
      ),
      format: Type.Optional(Type.Unsafe<'json' | 'csv'>({ type: 'string', enum: ['json', 'csv'] })),
    },
    { additionalProperties: false },
  )
const OwnQuery = queryOf(['model', 'day', 'hour'], 'model')
const AdminQuery = queryOf(['key', 'owner', 'model', 'day', 'hour'], 'key')
type Query = Static<typeof OwnQuery>

const schemaOf = (
  operationId: string,
  summary: string,
  querystring: object,
  refusals: readonly number[],
  more: object,
) => ({
  operationId,
  summary,
  querystring,
  ...more,
  response: answers({ success: ReportSchema, refusals }),
})

export const usageRoutes: FastifyPluginAsync<UsageOptions> = async (app, options) => {
  const { limits, meter, store, days, onAdminRequest, peers } = options
  peers?.answer('usage', () => meter.flush())
  const config = { rateLimit: false } as const

  const send = async (request: FastifyRequest, reply: FastifyReply, fallback: UsageGroup, key: string | undefined) => {
    const { by = fallback, format, ...span } = request.query as Query
    const [from, to] = hoursOf(span, days)
    const entries = await stored(request, async () => {
      // What was used before the question is in the answer.
      await (peers === undefined ? meter.flush() : flushAll(peers))
      return store.read(from, to, key)
    })
    const report = reportOf(entries, by, from, to)
    reply.header('cache-control', 'no-store')
    if (format === 'json' || (format === undefined && !prefersCsv(request.headers.accept))) return report
    return reply
      .type('text/csv; charset=utf-8')
      .header('content-disposition', 'attachment; filename="usage.csv"')
      .send(csvOf(report, by))
  }

  app.get(
    '/v1/usage',
    {
      config,
      schema: schemaOf('usage', 'What the caller used; asking costs nothing', OwnQuery, [400, 401, 403, 429, 503], {
        tags: ['Quota'],
      }),
    },
    async (request, reply) => send(request, reply, 'model', await limits.keyOf(request, reply)),
  )
  if (onAdminRequest === undefined) return
  app.get(
    '/v1/admin/usage',
    {
      config,
      onRequest: onAdminRequest,
      schema: schemaOf('adminUsage', 'What all callers used', AdminQuery, [400, 401, 429, 503], {
        tags: ['Admin'],
        security: [{ adminToken: [] }],
      }),
    },
    (request, reply) => send(request, reply, 'key', undefined),
  )
}

/** Rejects where a process could not. */
async function flushAll(peers: Pick<Peers, 'ask'>): Promise<void> {
  for (const answer of (await peers.ask('usage')).answers) {
    if (answer === 'late') throw new Error('a process did not bring its counts to the store in time')
    if (typeof answer === 'object' && 'error' in answer) throw new Error(answer.error)
  }
}

/** The hours of a question: from, and before which. Throws Refusal for what is no time, or ends before it begins. */
function hoursOf({ from, to }: Pick<Query, 'from' | 'to'>, days: number): readonly [from: number, to: number] {
  const now = Date.now()
  const end = to === undefined ? hourOf(now) + 1 : hourOf(msOf('to', to) + HOUR_MS - 1) + (isDay(to) ? DAY_HOURS : 0)
  const begin = from === undefined ? end - DEFAULT_DAYS * DAY_HOURS : hourOf(msOf('from', from))
  if (begin >= end) throw new Refusal(badRequest('INVALID_REQUEST', [{ path: 'from', message: 'is not before to' }]))
  // There is nothing outside of these, and nobody is to look for it day by day.
  const first = hourOf(now) - (days + 1) * DAY_HOURS
  return [Math.min(Math.max(begin, first), end), Math.max(Math.min(end, hourOf(now) + DAY_HOURS), begin)]
}

const isDay = (text: string): boolean => text.length === 'yyyy-mm-dd'.length

function msOf(path: string, text: string): number {
  const moment = momentOf(text)
  if (moment !== undefined) return Date.parse(moment)
  const message = 'takes a date, or a time of ISO 8601 with its zone, such as 2030-01-31T00:00:00Z'
  throw new Refusal(badRequest('INVALID_REQUEST', [{ path, message }]))
}

async function stored<T>(request: FastifyRequest, read: () => Promise<T>): Promise<T> {
  try {
    return await read()
  } catch (error) {
    const detail = 'the store of usage cannot be asked at the moment'
    request.log.error({ err: error }, 'usage cannot be read')
    throw new Refusal(unavailable('USAGE_UNAVAILABLE', detail, 1000))
  }
}
