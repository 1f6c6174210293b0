/** For the people who run the service; there are no such routes without ADMIN_TOKEN. */
import type { FastifyPluginAsync, onRequestAsyncHookHandler } from 'fastify'
import { Type } from 'typebox'
import { Refusal } from '../http/problem.js'
import { NoModels } from '../inference/errors.js'
import type { Models, ReloadReport } from '../inference/types.js'
import { answers } from '../openapi/schemas.js'
import { type Answers, valuesOf } from '../processes/messages.js'
import type { Peers } from '../processes/peers.js'
import type { Limits, LimitsReload } from '../protection/limits.js'
import { warnOfUnknownModels } from '../protection/models-meant.js'
import { audit } from './audit.js'

interface AdminOptions {
  readonly models: Models
  readonly limits: Limits
  /** Lets pass who has the admin token. */
  readonly onRequest: onRequestAsyncHookHandler
  /** The other processes of the service, which reload with this one; undefined where this is the only one. */
  readonly peers: Pick<Peers, 'ask' | 'answer'> | undefined
}

const schema = {
  tags: ['Admin'],
  summary: 'Reads the models folder again',
  operationId: 'reload',
  description: 'Requests in flight finish on what was loaded; a model that cannot be loaded leaves the rest serving.',
  security: [{ adminToken: [] }],
  response: answers({
    success: Type.Object({}, { additionalProperties: true }),
    refusals: [401, 409, 429, 503],
  }),
}

/** `report`: undefined where the folder of models holds nothing that can be served. */
interface Reloaded {
  readonly report: ReloadReport | undefined
  readonly limits: LimitsReload | undefined
}

export const adminRoutes: FastifyPluginAsync<AdminOptions> = async (app, { models, limits, onRequest, peers }) => {
  app.post('/v1/admin/reload', { config: { rateLimit: false }, onRequest, schema }, async request => {
    const { report, limits: file } =
      peers === undefined ? await reload(models, limits) : reloadedByAll(await peers.ask<Reloaded>('reload'))
    warnOfUnknownModels(request.log, limits.plans, models)
    if (report !== undefined) {
      audit(request, 'models.reload', file === undefined ? {} : { limits: file.loaded })
      return file === undefined ? report : { ...report, limits: file }
    }
    throw new Refusal({
      status: 409,
      code: 'NO_MODELS',
      detail: 'the models folder holds nothing that can be served; what was loaded goes on serving',
    })
  })
}

/** Reads limits and models again. */
export async function reload(models: Models, limits: Limits): Promise<Reloaded> {
  const file = limits.reload()
  try {
    return { report: await models.reload(), limits: file }
  } catch (error) {
    if (!(error instanceof NoModels)) throw error
    return { report: undefined, limits: file }
  }
}

/** Mostly all say the same. What only some of them loaded, removed or refused is told as well. */
function reloadedByAll(answers: Answers<Reloaded>): Reloaded {
  const failed = answers.answers.find(answer => typeof answer === 'object' && 'error' in answer)
  if (failed !== undefined) throw new Error(`a process did not reload: ${(failed as { error: string }).error}`)
  const all = valuesOf(answers)
  const reports = all.flatMap(({ report }) => report ?? [])
  const file = all.find(({ limits }) => limits?.loaded === false) ?? all[0]
  if (reports.length < all.length || reports.length === 0) return { report: undefined, limits: file?.limits }
  const union = (names: (report: ReloadReport) => readonly string[]) => [...new Set(reports.flatMap(names))]
  const [loaded, removed] = [union(report => report.loaded), union(report => report.removed)]
  const broken = new Map(reports.flatMap(({ broken }) => broken.map(each => [`${each.name}/${each.version}`, each])))
  const changed = new Set([...loaded, ...removed])
  return {
    report: {
      ...{ loaded, removed, broken: [...broken.values()] },
      unchanged: union(({ unchanged }) => unchanged).filter(name => !changed.has(name)),
    },
    limits: file?.limits,
  }
}
