/** Which of a model's versions answers a request that asks for none, and which runs beside it. Pure. */
import { createHash } from 'node:crypto'
import type { RoutingInfo, ShadowTally } from '../types.js'
import type { Routing } from './model-json.js'
import type { ServedModel } from './served-model.js'
import type { Served } from './source.js'

/** The versions of one model that serve, and who gets which. */
export interface Routes {
  /** Newest first. */
  readonly versions: readonly Served[]
  readonly byDefault: ServedModel
  /** Undefined where all get the default. */
  readonly split: readonly Part[] | undefined
  readonly shadow: { readonly target: ServedModel; readonly share: number } | undefined
  /** What model.json names and does not serve, in words. */
  readonly faults: readonly string[]
}

/** A version and the end of its part of all callers, from 0 to 1. */
interface Part {
  readonly model: ServedModel
  readonly end: number
}

/** `versions`: newest first, at least one. */
export function routesOf(versions: readonly Served[]): Routes {
  const [newest] = versions as [Served]
  const { defaultVersion, split, shadow }: Routing = newest.routing
  const { name } = newest.model.info
  const faults: string[] = []
  const find = (version: string, what: string): ServedModel | undefined => {
    const found = versions.find(({ model }) => model.info.version === version)?.model
    if (found === undefined) faults.push(`version ${version} of model '${name}' does not serve, and is its ${what}`)
    return found
  }
  const pinned = defaultVersion === undefined ? undefined : find(defaultVersion, "'defaultVersion'")
  const target = shadow === undefined ? undefined : find(shadow.version, "'shadow'")
  return {
    versions,
    byDefault: pinned ?? newest.model,
    split: split && partsOf(split, find),
    shadow: target && { target, share: shadow?.share ?? 1 },
    faults,
  }
}

/** A version that does not serve has no part; the others share it. */
function partsOf(
  split: NonNullable<Routing['split']>,
  find: (version: string, what: string) => ServedModel | undefined,
): readonly Part[] | undefined {
  const weighted: { model: ServedModel; weight: number }[] = []
  for (const [version, weight] of Object.entries(split)) {
    const model = weight > 0 ? find(version, "part of 'split'") : undefined
    if (model !== undefined) weighted.push({ model, weight })
  }
  const total = weighted.reduce((sum, { weight }) => sum + weight, 0)
  if (total === 0) return undefined
  let end = 0
  return weighted.map(({ model, weight }) => {
    end += weight / total
    return { model, end }
  })
}

/** The version of a caller: always the same one while the split stays the same. */
export function versionFor({ byDefault, split, versions }: Routes, caller: string | undefined): ServedModel {
  if (split === undefined) return byDefault
  const point = caller === undefined ? Math.random() : pointOf(`${versions[0]?.model.info.name} ${caller}`)
  return split.find(({ end }) => point < end)?.model ?? (split.at(-1) as Part).model
}

/** A number from 0 to 1 that a text always has. */
const pointOf = (text: string): number => createHash('sha256').update(text).digest().readUInt32BE() / 2 ** 32

/** How the answers of a shadow compare with those that were given. */
export class Tally implements ShadowTally {
  requests = 0
  rows = 0
  failed = 0
  labelled = 0
  agreed = 0
  largestDifference = 0
}

/** What is told about it. */
export function routingInfo({ byDefault, split, shadow }: Routes, tally: Tally | undefined): RoutingInfo {
  let from = 0
  const parts = split?.map(({ model, end }) => {
    const share = end - from
    from = end
    return [model.info.version, Math.round(share * 1e6) / 1e6]
  })
  return {
    defaultVersion: byDefault.info.version,
    ...(parts === undefined ? {} : { split: Object.fromEntries(parts) }),
    ...(shadow === undefined
      ? {}
      : { shadow: { version: shadow.target.info.version, share: shadow.share, ...(tally ?? new Tally()) } }),
  }
}
