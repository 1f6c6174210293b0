/** The inference engine, as routes and the service's start use it. */
export * from './errors.js'
export { type InferenceEvent, type ModelsOptions, openModels, type Repository } from './models/repository.js'
export { predictionsJson } from './tensors/predictions.js'
export { type JsonSchema, requestSchema, sampleBody } from './tensors/request-schema.js'
export { type EncodedRows, encodeRows } from './tensors/rows.js'
export { checkInputs, rowLayout, signatureOf } from './tensors/signature.js'
export { tensorOf, writeValues } from './tensors/tensor.js'
export type * from './types.js'
