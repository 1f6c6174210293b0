/** The seam between what was counted here and where it is kept. */
import type { UsageBatch, UsageEntry } from './entry.js'

export interface UsageStore {
  /** Adds a batch, once however often it is sent: a batch whose sequence the replica has sent before changes nothing. */
  add(batch: UsageBatch): Promise<void>
  /** What was used from the hour `from` to before the hour `to`, of one key or of all. */
  read(from: number, to: number, key: string | undefined): Promise<readonly UsageEntry[]>
}
