/** Lists of keys, page by page: a cursor is the place of the last key of a page, so that nothing is shown twice. Pure. */
import type { KeyRecord } from './key-record.js'
import { placeOf } from './keyring.js'

export interface KeyFilter {
  readonly owner?: string | undefined
  readonly plan?: string | undefined
  readonly disabled?: boolean | undefined
}

export interface KeyPage {
  readonly keys: readonly KeyRecord[]
  /** For the next page; undefined on the last one. */
  readonly next: string | undefined
}

/** `keys`: in the order of their places. `after`: the place of the last key of the page before. */
export function pageOf(
  keys: readonly KeyRecord[],
  filter: KeyFilter,
  limit: number,
  after: string | undefined,
): KeyPage {
  const found: KeyRecord[] = []
  for (const key of keys) {
    if (after !== undefined && placeOf(key) <= after) continue
    if (!keyPasses(key, filter)) continue
    if (found.length === limit) return { keys: found, next: cursorOf(found.at(-1) as KeyRecord) }
    found.push(key)
  }
  return { keys: found, next: undefined }
}

export const keyPasses = (key: KeyRecord, { owner, plan, disabled }: KeyFilter): boolean =>
  (owner === undefined || key.owner === owner) &&
  (plan === undefined || key.plan === plan) &&
  (disabled === undefined || key.disabled === disabled)

const cursorOf = (key: KeyRecord): string => Buffer.from(placeOf(key)).toString('base64url')

/** The place that a cursor names; undefined for what is none. */
export function placeOfCursor(cursor: string): string | undefined {
  const place = Buffer.from(cursor, 'base64url').toString('latin1')
  return /^\d{4}-\d\d-\d\dT[\d:.]+Z [0-9A-Za-z]{16}$/.test(place) ? place : undefined
}
