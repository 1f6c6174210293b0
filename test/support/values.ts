import { JsonBytes } from '../../service/src/inference/tensors/json-bytes.js'
import { predictionsJson } from '../../service/src/inference/tensors/predictions.js'
import { writeElements, writeNested } from '../../service/src/inference/tensors/tensor.js'
import type { ModelInfo, NamedTensors, Tensor } from '../../service/src/inference/types.js'

type Nested = number | string | boolean | readonly Nested[]

export interface Prediction {
  readonly label?: string
  readonly score?: number | string
  readonly outputs: Readonly<Record<string, Nested>>
}

/** The elements of a tensor as a reader of the answer has them, flat. */
export function valuesOf(tensor: Tensor): unknown[] {
  const out = new JsonBytes()
  writeElements(out, tensor)
  return JSON.parse(`[${out.text()}]`)
}

/** A tensor as a reader of the answer has it. */
export function nestedOf(tensor: Tensor): unknown {
  const out = new JsonBytes()
  writeNested(out, tensor)
  return JSON.parse(out.text())
}

/** Predictions as a reader of the answer has them. */
export const predictionsOf = (
  info: Pick<ModelInfo, 'inputs' | 'outputs' | 'labels'>,
  outputs: NamedTensors,
  rows: number,
): readonly Prediction[] => {
  const answer = predictionsJson({ name: 'model', version: '1', ...info }, outputs, rows)
  return JSON.parse(answer.toString('utf8')).predictions
}
