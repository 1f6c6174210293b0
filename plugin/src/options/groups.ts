import { InvalidOption } from '../errors.js'
import { show } from './kinds.js'
import type { LimiterConfig } from './parse.js'

/** The groups of one registration. Their routes share logs, so they have to agree on how these are kept. */
export class Groups {
  readonly #precisions = new Map<string, number>()

  /** Throws InvalidOption where `precision` is not that of the group's first route. */
  join(groupId: string, { precision }: LimiterConfig): void {
    const known = this.#precisions.get(groupId) ?? precision
    if (precision !== known) {
      throw new InvalidOption('precision', show(precision), `${known}, as the group ${show(groupId)} has it already`)
    }
    this.#precisions.set(groupId, known)
  }
}
