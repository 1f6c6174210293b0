/**
 * What refusals and unlimited documents tell of a model. A sample of a picture's model has hundreds of kilobytes, so
 * parts that are longer than 2 KB are left out, with the URL where they are.
 */
import type { ModelInfo } from '../inference/types.js'

/** Longest part, in characters of JSON. */
const LONGEST = 2048

const lengths = new WeakMap<object, number>()

/** Whether a part of a model's description is short enough to be told where nobody asked for it. */
export function isShort(part: object | undefined): boolean {
  if (part === undefined) return true
  let length = lengths.get(part)
  if (length === undefined) {
    length = lengthOf(part, LONGEST + 1)
    lengths.set(part, length)
  }
  return length <= LONGEST
}

/** Characters of JSON, or so many as were asked for: a row may have millions of values. */
function lengthOf(value: unknown, enough: number): number {
  if (typeof value !== 'object' || value === null) return String(JSON.stringify(value)).length
  let length = 2
  for (const key in value) {
    const each = (value as Readonly<Record<string, unknown>>)[key]
    if (length >= enough) return length
    length += lengthOf(each, enough - length) + (Array.isArray(value) ? 1 : key.length + 4)
  }
  return length
}

export const modelUrl = ({ name, version }: Pick<ModelInfo, 'name' | 'version'>): string =>
  `/v1/models/${encodeURIComponent(name)}?version=${version}`

/** Where the whole sample is, for those who count against a limit. */
export const sampleUrl = ({ name, version }: Pick<ModelInfo, 'name' | 'version'>): string =>
  `/v1/models/${encodeURIComponent(name)}/sample?version=${version}`

/** A model's own description, with a link in place of a long sample. */
export function described(info: ModelInfo): Omit<ModelInfo, 'sample'> & { readonly sampleUrl: string } {
  const { sample, batching, ...rest } = info
  return { ...rest, ...(isShort(sample) ? { sample } : {}), sampleUrl: sampleUrl(info), batching }
}

/** The same as one of many: nothing in it is long. */
export function listed(info: ModelInfo): Partial<ReturnType<typeof described>> & { readonly url: string } {
  const whole = described(info)
  const short = Object.entries(whole).filter(([, part]) => typeof part !== 'object' || isShort(part))
  return { ...Object.fromEntries(short), url: modelUrl(info) }
}

/** What a prediction could have been asked with, for those who asked with something else. */
export function takenBy({ name, version, inputs, sample }: ModelInfo): object {
  const whole = { name, version }
  return {
    model: name,
    version,
    ...(isShort(inputs) ? { inputs } : { url: modelUrl(whole) }),
    ...(isShort(sample) ? { sample } : { sampleUrl: sampleUrl(whole) }),
  }
}
