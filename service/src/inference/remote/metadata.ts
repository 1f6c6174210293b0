/** What a v2 server says of a model, as the signature that requests are checked against. Pure. */
import { datatypes } from '../tensors/datatype.js'
import type { Datatype, Dimension, Signature, TensorSpec } from '../types.js'

export interface RemoteMetadata {
  readonly signature: Signature
  readonly platform: string | undefined
  /** The newest that the server names; undefined where it has no versions. */
  readonly version: string | undefined
}

/** `otherwise`: the signature where the metadata lists none. Throws Error saying what of the metadata cannot be served. */
export function readMetadata(value: unknown, otherwise?: Signature): RemoteMetadata {
  const { inputs, outputs, platform, versions } = objectOf(value, 'the metadata')
  const signature =
    otherwise !== undefined && (isNone(inputs) || isNone(outputs)) ? otherwise : readSignature(inputs, outputs)
  const named = Array.isArray(versions) ? versions.filter(each => typeof each === 'string') : []
  const newest = named.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1)
  return { signature, platform: typeof platform === 'string' ? platform : undefined, version: newest }
}

/** Lists of tensors, as metadata has them. Throws Error saying what of them cannot be served. */
export function readSignature(inputs: unknown, outputs: unknown): Signature {
  if (isNone(inputs) || isNone(outputs)) {
    throw new Error("it lists no inputs or no outputs; model.json may say them, as 'signature' of 'backend'")
  }
  return nameBatch({ inputs: tensorsOf(inputs, 'inputs'), outputs: tensorsOf(outputs, 'outputs') })
}

const isNone = (list: unknown): boolean =>
  list === undefined || list === null || (Array.isArray(list) && list.length === 0)

/** The protocol does not say which -1 is the batch: where every tensor begins with one, that is taken for it, and checked. */
function nameBatch({ inputs, outputs }: Signature): Signature {
  if (![...inputs, ...outputs].every(({ shape }) => shape[0] === '?')) return { inputs, outputs }
  const named = (spec: TensorSpec): TensorSpec => ({ ...spec, shape: ['batch', ...spec.shape.slice(1)] })
  return { inputs: inputs.map(named), outputs: outputs.map(named) }
}

function tensorsOf(list: unknown, kind: string): readonly TensorSpec[] {
  if (!Array.isArray(list)) throw new Error(`its metadata has no list of ${kind}`)
  const specs = list.map(each => {
    const { name, datatype, shape } = objectOf(each, `one of the ${kind}`)
    if (typeof name !== 'string' || name === '') throw new Error(`one of the ${kind} has no name`)
    if (!datatypes.includes(datatype as Datatype)) {
      throw new Error(`'${name}' has the datatype ${String(datatype)}, which is not served`)
    }
    if (!Array.isArray(shape) || !shape.every(size => Number.isSafeInteger(size) && size >= -1)) {
      throw new Error(`'${name}' has no shape`)
    }
    return { name, datatype: datatype as Datatype, shape: shape.map((size): Dimension => (size === -1 ? '?' : size)) }
  })
  if (new Set(specs.map(({ name }) => name)).size < specs.length) throw new Error(`two of its ${kind} have one name`)
  return specs
}

/** Triton, KServe and OpenVINO's server do not agree on the name; plain servers list none. */
export function speaksBinary(extensions: readonly string[]): boolean {
  return extensions.some(each => /^binary_(tensor_)?data(_extension)?$/.test(each))
}

/** Servers with this extension drop what has waited longer than the request's `timeout`. */
export const takesTimeout = (extensions: readonly string[]): boolean => extensions.includes('schedule_policy')

/** `extensions` of the server metadata; none where the server has no such page. */
export function readExtensions(value: unknown): readonly string[] {
  const { extensions } = (value ?? {}) as { extensions?: unknown }
  return Array.isArray(extensions) ? extensions.filter(each => typeof each === 'string') : []
}

function objectOf(value: unknown, what: string): Readonly<Record<string, unknown>> {
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return value as Record<string, unknown>
  throw new Error(`${what} is not an object`)
}
