import { predictionsJson } from '../../service/src/inference/predictions.js'
import { elementsJson } from '../../service/src/inference/tensor.js'
import type { Tensor } from '../../service/src/inference/types.js'

type Nested = number | string | boolean | readonly Nested[]

export interface Prediction {
  readonly label?: string
  readonly score?: number | string
  readonly outputs: Readonly<Record<string, Nested>>
}

/** The elements of a tensor as a reader of the answer has them, flat. */
export const valuesOf = (tensor: Tensor): unknown[] => JSON.parse(`[${elementsJson(tensor)}]`)

/** Predictions as a reader of the answer has them. */
export const predictionsOf = (...args: Parameters<typeof predictionsJson>): Prediction[] =>
  JSON.parse(predictionsJson(...args))
