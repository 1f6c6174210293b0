import type { Model, Models } from '../inference/types.js'

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
