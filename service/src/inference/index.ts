/** The inference engine as the service opens it. */
export * from './errors.js'
export {
  beginModels,
  type InferenceEvent,
  type ModelsOptions,
  openModels,
  type Repository,
} from './models/repository.js'
export type * from './types.js'
