import type { FastifyBaseLogger } from 'fastify'
import type { Model, Models } from '../inference/types.js'
import { type Plan, unknownModels } from './plans.js'

/** Every model that a request may be about, as the parameters of its URL tell. */
export function modelsMeant(models: Models, params: unknown): readonly Model[] {
  const { name, model = name, version } = params as Readonly<Record<string, string | undefined>>
  if (model === undefined) return models.list()
  try {
    return [models.get(model, version)]
  } catch {
    // Its route says so.
    return []
  }
}

/** A plan may name a model that is still to come. A slip of the pen would leave a model open that was to be denied. */
export function warnOfUnknownModels(log: FastifyBaseLogger, plans: readonly Plan[], models: Models): void {
  const known = new Set([...models.list().map(({ info }) => info.name), ...models.broken.map(({ name }) => name)])
  for (const [model, named] of unknownModels(plans, known)) {
    log.warn({ model, plans: named }, 'the limits file names a model that is not here: is it spelt right?')
  }
}
