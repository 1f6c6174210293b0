/**
 * What became of one pending check, and `ms` milliseconds it took; or that a circuit has opened, so that Redis is left
 * alone (`lost`), or has closed again (`back`). `node`: which node of a cluster.
 */
export type StoreEvent =
  | { readonly type: 'answered'; readonly ms: number }
  | { readonly type: 'failed'; readonly ms: number; readonly error: Error }
  | { readonly type: 'lost'; readonly error: Error; readonly node?: string }
  | { readonly type: 'back'; readonly node?: string }

export type StoreListener = (event: StoreEvent) => void
