/** What is kept of an API key: never the key itself. Pure. */
import { type Static, Type } from 'typebox'
import { shownOf } from './key-text.js'

const closed = { additionalProperties: false } as const

const Secret = Type.Object(
  {
    /** SHA-256 of a key that opens this record, in hex. */
    sha256: Type.String({ pattern: '^[0-9a-f]{64}$' }),
    /** ISO 8601; only of a key that was rotated away. */
    endsAt: Type.Optional(Type.String()),
  },
  closed,
)

export const KeyRecordSchema = Type.Object(
  {
    id: Type.String(),
    owner: Type.String(),
    plan: Type.String(),
    name: Type.Union([Type.String(), Type.Null()]),
    /** Models that the key may ask; null: all that its plan allows. */
    models: Type.Union([Type.Array(Type.String()), Type.Null()]),
    /** ISO 8601, as all times here; null: it has no end. */
    expiresAt: Type.Union([Type.String(), Type.Null()]),
    disabled: Type.Boolean(),
    createdAt: Type.String(),
    updatedAt: Type.String(),
    /** The newest first. */
    secrets: Type.Array(Secret, { minItems: 1 }),
  },
  closed,
)

type Kept = Static<typeof KeyRecordSchema>

export type KeyRecord = Readonly<Omit<Kept, 'models' | 'secrets'>> & {
  readonly models: readonly string[] | null
  readonly secrets: readonly Readonly<Static<typeof Secret>>[]
}

export type KeyStanding = 'active' | 'disabled' | 'expired'

/** Whether a key is good for anything at `now`, in milliseconds since 1970. */
export function standingOf({ disabled, expiresAt }: KeyRecord, now: number): KeyStanding {
  if (disabled) return 'disabled'
  return expiresAt !== null && Date.parse(expiresAt) <= now ? 'expired' : 'active'
}

/** Until when a key opens its record, in milliseconds since 1970; Infinity: without end. */
export function opensUntil({ disabled, expiresAt }: KeyRecord, { endsAt }: KeyRecord['secrets'][number]): number {
  if (disabled) return Number.NEGATIVE_INFINITY
  return Math.min(...[expiresAt, endsAt].map(end => (end == null ? Number.POSITIVE_INFINITY : Date.parse(end))))
}

/** Keys that were rotated away and still live at `now`. */
export const outgoingOf = ({ secrets }: KeyRecord, now: number): readonly { readonly expiresAt: string }[] =>
  secrets.flatMap(({ endsAt }) => (endsAt !== undefined && Date.parse(endsAt) > now ? [{ expiresAt: endsAt }] : []))

/** A record as it is shown: without anything that a key could be found by. */
export function keyView(record: KeyRecord, now: number) {
  const { id, owner, plan, name, models, expiresAt, disabled, createdAt, updatedAt } = record
  return {
    ...{ id, shown: shownOf(id), owner, plan, name, models, expiresAt, disabled },
    ...{ standing: standingOf(record, now), createdAt, updatedAt, outgoing: outgoingOf(record, now) },
  }
}
