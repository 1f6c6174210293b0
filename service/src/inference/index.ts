/** The inference engine, as routes and the service's start use it. */
export * from './errors.js'
export { predictionsJson } from './predictions.js'
export { type InferenceEvent, type ModelsOptions, openModels, type Repository } from './repository.js'
export { type JsonSchema, requestSchema, sampleBody } from './request-schema.js'
export { type EncodedRows, encodeRows } from './rows.js'
export { checkInputs, rowLayout, signatureOf } from './signature.js'
export { tensorOf, writeValues } from './tensor.js'
export type * from './types.js'
