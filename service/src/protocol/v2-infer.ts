/** Inference messages of the Open Inference Protocol: a request into tensors, tensors into the response. Pure. */
import { listed } from '../inference/errors.js'
import { elementBytes } from '../inference/tensors/datatype.js'
import { checkInputs, describeSpec, rowLayout } from '../inference/tensors/signature.js'
import { show } from '../inference/tensors/tensor.js'
import type { ModelInfo, NamedTensors, Signature, Tensor, TensorSpec } from '../inference/types.js'
import { readElements, readString, splitMessage } from '../inference/v2-codec/binary.js'
import { readJson } from '../inference/v2-codec/json.js'
import {
  invalid,
  type JsonObject,
  type Message,
  objectAt,
  parametersOf,
  readTensors,
  writeMessage,
} from '../inference/v2-codec/tensors.js'

export interface OutputWanted {
  readonly name: string
  /** Its elements go after the JSON of the response. */
  readonly binary: boolean
}

export interface InferRequest {
  readonly id: string | undefined
  readonly inputs: NamedTensors
  readonly rows: number
  /** In the order of the response; all of the model's, where the request names none. */
  readonly outputs: readonly OutputWanted[]
  /** Whether `outputs` leaves some of the model's out. */
  readonly someOutputs: boolean
  /** `parameters.timeout`; undefined where the caller sets none. */
  readonly timeoutMs: number | undefined
}

/** Reads the body of an `infer` request, whole. Throws InvalidInput, which names the value and what the model takes. */
export function readInferRequest(body: Buffer, headerLength: string | undefined, model: Signature): InferRequest {
  const { json, binary } = splitMessage(body, headerLength)
  if (json.length === 0 && binary !== undefined) return readRawRequest(binary, model)
  const document = readJson(json)
  const message = objectAt(document.value, '')
  const parameters = parametersOf(message, '')
  const { id } = message
  if (id !== undefined && typeof id !== 'string') throw invalid('id', `is ${show(id)}; it takes a string`)
  const outputs = readOutputs(message, flag(parameters, 'binary_data_output', 'parameters') ?? false, model)
  const timeoutMs = readTimeout(parameters.timeout)
  const inputs = readTensors({ document, binary }, 'inputs', model.inputs)
  const rows = checkInputs(model, inputs)
  return { id, inputs, rows, outputs, someOutputs: outputs.length < model.outputs.length, timeoutMs }
}

function readOutputs({ outputs }: JsonObject, binaryByDefault: boolean, model: Signature): readonly OutputWanted[] {
  if (outputs !== undefined && !Array.isArray(outputs)) {
    throw invalid('outputs', `is ${show(outputs)}; it takes a list of outputs`)
  }
  if (outputs === undefined || outputs.length === 0) return allOutputs(model, binaryByDefault)
  const wanted = new Map<string, OutputWanted>()
  for (const [i, value] of outputs.entries()) {
    const path = `outputs[${i}]`
    const entry = objectAt(value, path)
    const spec = model.outputs.find(({ name }) => name === entry.name)
    if (spec === undefined) {
      const known = listed(model.outputs.map(describeSpec))
      throw invalid(`${path}.name`, `is ${show(entry.name)}; the model has ${known}`)
    }
    const { name } = spec
    if (wanted.has(name)) throw invalid(`${path}.name`, `is '${name}' once more`)
    const binary = flag(parametersOf(entry, path), 'binary_data', `${path}.parameters`) ?? binaryByDefault
    wanted.set(name, { name, binary })
  }
  return [...wanted.values()]
}

const allOutputs = (model: Signature, binary: boolean): readonly OutputWanted[] =>
  model.outputs.map(({ name }) => ({ name, binary }))

function flag(parameters: JsonObject, name: string, path: string): boolean | undefined {
  const value = parameters[name]
  if (value === undefined || typeof value === 'boolean') return value
  throw invalid(`${path}.${name}`, `is ${show(value)}; it takes true or false`)
}

/** Microseconds in the message; 0 sets no timeout (Triton's schedule policy). */
function readTimeout(value: unknown): number | undefined {
  if (value === undefined || value === 0) return undefined
  if (Number.isSafeInteger(value) && (value as number) > 0) return (value as number) / 1000
  throw invalid('parameters.timeout', `is ${show(value)}; it takes microseconds, an integer`)
}

/**
 * A body without JSON: one row for the model's only input. Its one variable dimension, where it has such, is as long as
 * the bytes make it; a string is the body as it is, without a length.
 */
function readRawRequest(bytes: Buffer, model: Signature): InferRequest {
  const [spec, ...more] = model.inputs
  if (spec === undefined || more.length > 0 || spec.anyShape) {
    throw invalid('', 'a body without JSON is for models of one input of known rank; this one needs the JSON')
  }
  const tensor = rawTensor(bytes, spec, rowLayout(model) === 'dynamic')
  const inputs: Record<string, Tensor> = Object.create(null)
  inputs[spec.name] = tensor
  const rows = checkInputs(model, inputs)
  return { id: undefined, inputs, rows, outputs: allOutputs(model, true), someOutputs: false, timeoutMs: undefined }
}

function rawTensor(bytes: Buffer, spec: TensorSpec, batched: boolean): Tensor {
  const { datatype } = spec
  const shape = batched ? [1, ...spec.shape.slice(1)] : spec.shape
  const variable = shape.filter(dimension => typeof dimension === 'string').length
  let known = 1
  for (const dimension of shape) if (typeof dimension === 'number') known *= dimension
  if (variable > 1 || (datatype === 'BYTES' && (variable > 0 || known !== 1))) {
    throw invalid('', `a body without JSON does not tell the shape of ${describeSpec(spec)}`)
  }
  if (datatype === 'BYTES') return { datatype, shape: shape as number[], data: [readString(bytes, 'the body')] }
  const step = known * elementBytes(datatype)
  const length = step === 0 ? 0 : Math.floor(bytes.length / step)
  const complete = shape.map(dimension => (typeof dimension === 'number' ? dimension : length))
  const elements = variable === 0 ? known : known * length
  return { datatype, shape: complete, data: readElements(datatype, elements, bytes, 'the body') }
}

/** The answer to `request`, from the outputs of the run. */
export function writeInferResponse(
  { name, version }: Pick<ModelInfo, 'name' | 'version'>,
  { id, outputs }: Pick<InferRequest, 'id' | 'outputs'>,
  tensors: NamedTensors,
): Message {
  const wanted = outputs.map(output => ({ ...output, tensor: tensors[output.name] as Tensor }))
  return writeMessage({ id, model_name: name, model_version: version }, 'outputs', wanted)
}
