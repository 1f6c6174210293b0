/**
 * Nested lists of JSON into the elements of a tensor: the one reader of both protocols. Lists are counted before memory
 * is allocated, so a request never allocates more elements than it has values, whatever its first lists promise. Pure.
 */
import type { Datatype, Dimension, TensorData } from '../types.js'
import { writeValues } from './tensor.js'

/** The first thing in a nested list that does not fit. */
export interface Misfit {
  /** Where it is within the list that was read: `[3][0]`. */
  readonly path: string
  readonly value: unknown
  /** The length of the list that belongs there; undefined where an element belongs there. */
  readonly length?: number
}

/** ONNX Runtime has no tensors of higher rank that a model could use; hostile bodies nest without end. */
const maxRank = 32

/**
 * The shape of nested lists along their first elements, with at most `shape.length` dimensions (32 where `shape` is
 * undefined). Dimensions behind an empty list cannot be told: they are those of `shape`, or 0 where it leaves them open.
 */
export function shapeAlongFirst(value: unknown, shape?: readonly Dimension[]): number[] {
  const rank = shape?.length ?? maxRank
  const found: number[] = []
  for (let inner = value; Array.isArray(inner) && found.length < rank; inner = inner[0]) found.push(inner.length)
  if (shape === undefined || found.at(-1) !== 0) return found
  for (const dimension of shape.slice(found.length)) found.push(typeof dimension === 'number' ? dimension : 0)
  return found
}

/**
 * The first list that is missing, or not as long as `shape` says; undefined where `value` has exactly the lists of
 * `shape`. Elements are not looked at. `shape` has at least one dimension.
 */
export function findRagged(value: unknown, shape: readonly number[], depth = 0): Misfit | undefined {
  const length = shape[depth] as number
  if (!Array.isArray(value) || value.length !== length) return { path: '', value, length }
  if (depth === shape.length - 1) return undefined
  for (let i = 0; i < length; i++) {
    const misfit = findRagged(value[i], shape, depth + 1)
    if (misfit !== undefined) return within(i, misfit)
  }
  return undefined
}

/**
 * Writes the elements of lists that have passed `findRagged` into `target` from `offset` on. Returns the first element
 * that the datatype cannot hold, in which case `target` is half written and must not be used.
 */
export function writeNestedLists(
  datatype: Datatype,
  lists: readonly unknown[],
  shape: readonly number[],
  target: TensorData,
  offset = 0,
  depth = 0,
): Misfit | undefined {
  if (depth === shape.length - 1) {
    const bad = writeValues(datatype, lists, target, offset)
    return bad === -1 ? undefined : { path: `[${bad}]`, value: lists[bad] }
  }
  let step = 1
  for (let i = depth + 1; i < shape.length; i++) step *= shape[i] as number
  for (let i = 0; i < lists.length; i++) {
    const misfit = writeNestedLists(
      datatype,
      lists[i] as readonly unknown[],
      shape,
      target,
      offset + i * step,
      depth + 1,
    )
    if (misfit !== undefined) return within(i, misfit)
  }
  return undefined
}

const within = (index: number, misfit: Misfit): Misfit => ({ ...misfit, path: `[${index}]${misfit.path}` })
