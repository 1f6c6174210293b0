/** Limits files, and what is sent to a service that has one. */
import { createHash } from 'node:crypto'
import { writeFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Test } from 'tap'
import { IRIS } from './build.js'

export const sha256 = (key: string) => createHash('sha256').update(key).digest('hex')

/** A file that the test may write anew. */
export function limitsFile(t: Test, content: unknown) {
  const path = join(t.testdir(), 'limits.json')
  const write = (next: unknown) => writeFileSync(path, typeof next === 'string' ? next : JSON.stringify(next))
  write(content)
  return { path, write }
}

/** A limits file whose only plan everybody has. */
export const onePlan = (t: Test, policies: readonly object[], more: object = {}): string =>
  limitsFile(t, { anonymous: 'plan', plans: { plan: { policies, ...more } } }).path

/** So many rows for `iris`, as `/v1` takes them. */
export const rowsOf = (count: number) => ({
  model: 'iris',
  features: Array.from({ length: count }, () => IRIS.features),
})

/** The same for `POST /v2/models/iris/infer`. */
export const v2RowsOf = (count: number) => ({
  inputs: [{ name: 'measurements', datatype: 'FP32', shape: [count, 4], data: rowsOf(count).features.flat() }],
})
