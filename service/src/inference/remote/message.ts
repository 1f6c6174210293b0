/** The client's side of an inference call: tensors into a request, an answer into tensors that are really as promised. Pure. */

import { showShape } from '../tensors/signature.js'
import type { NamedTensors, Signature, Tensor } from '../types.js'
import { headerLengthField, splitMessage } from '../v2-codec/binary.js'
import { readJson } from '../v2-codec/json.js'
import { readTensors, writeMessage } from '../v2-codec/tensors.js'

export interface CallMessage {
  readonly body: string | Buffer
  readonly headers: Readonly<Record<string, string>>
}

export interface CallOptions {
  /** Tensors go, and are asked for, as bytes after the JSON. */
  readonly binary: boolean
  /** Milliseconds that an answer is still of use; undefined where nobody said. */
  readonly timeoutMs: number | undefined
  /** The server knows the protocol's `timeout` parameter. */
  readonly timeoutParameter: boolean
}

export function writeCall(inputs: NamedTensors, outputs: readonly string[], options: CallOptions): CallMessage {
  const { binary, timeoutMs, timeoutParameter } = options
  const wanted = outputs.map(name => ({ name, ...(binary ? { parameters: { binary_data: true } } : {}) }))
  const timeout =
    timeoutParameter && timeoutMs !== undefined ? { parameters: { timeout: Math.ceil(timeoutMs * 1000) } } : {}
  const tensors = Object.entries(inputs).map(([name, tensor]) => ({ name, tensor, binary }))
  const { body, headerLength } = writeMessage({ ...timeout, outputs: wanted }, 'inputs', tensors)
  return {
    body,
    headers: {
      'content-type': headerLength === undefined ? 'application/json' : 'application/octet-stream',
      'accept-encoding': 'identity',
      ...(headerLength === undefined ? {} : { [headerLengthField]: String(headerLength) }),
      ...(timeoutMs === undefined ? {} : { 'x-request-timeout-ms': String(Math.max(1, Math.ceil(timeoutMs))) }),
    },
  }
}

/**
 * The outputs of an answer, each with the datatype, the shape and the number of values that the signature and `rows`
 * call for. Throws Error saying what of it is not so.
 */
export function readAnswer(
  body: Buffer,
  headerLength: string | undefined,
  signature: Signature,
  wanted: readonly string[],
  rows: number | undefined,
): NamedTensors {
  const { json, binary } = splitMessage(body, headerLength)
  const tensors = readTensors({ document: readJson(json), binary }, 'outputs', signature.outputs)
  const outputs: Record<string, Tensor> = {}
  for (const name of wanted) {
    const tensor = tensors[name]
    if (tensor === undefined) throw new Error(`output '${name}' is missing`)
    checkShape(name, tensor.shape, signature, rows)
    outputs[name] = tensor
  }
  return outputs
}

function checkShape(name: string, shape: readonly number[], { outputs }: Signature, rows: number | undefined): void {
  const promised = outputs.find(each => each.name === name)?.shape ?? []
  for (const [i, size] of promised.entries()) {
    const expected = size === 'batch' ? rows : typeof size === 'number' ? size : undefined
    if (expected === undefined || shape[i] === expected) continue
    const asked = rows === undefined ? '' : ` for ${rows} rows`
    throw new Error(
      `output '${name}' has the shape ${showShape(shape)} where ${showShape(promised)} is promised${asked}`,
    )
  }
}
