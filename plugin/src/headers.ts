import { type PolicyState, seconds } from './decision.js'

/** The largest integer of RFC 9651, section 3.3.1: fifteen digits. */
const MAX_INTEGER = 999_999_999_999_999

const integer = (value: number): number => Math.min(Math.trunc(value), MAX_INTEGER)

/** What `RateLimit-Policy` tells of a policy. */
type Quota = Pick<PolicyState, 'name' | 'unit' | 'limit' | 'windowMs' | 'period'>

/**
 * Whether a policy can go by this name in a structured field: a string of RFC 9651 holds printable ASCII only.
 */
export function isFieldString(name: string): boolean {
  return /^[\x20-\x7e]+$/.test(name)
}

/** A string of RFC 9651, section 4.1.6. The name holds printable ASCII only: see `isFieldString`. */
function quoted(name: string): string {
  return `"${name.replace(/["\\]/g, '\\$&')}"`
}

/** `RateLimit-Policy` of draft-ietf-httpapi-ratelimit-headers (-10 and later): `"burst";q=10;w=1, "daily";q=…`. */
export function policyField(policies: readonly Quota[]): string {
  return policies
    .map(({ name, unit, limit, windowMs, period }) => {
      const qu = unit === 'requests' ? '' : `;qu="${unit}"`
      const w = windowMs === 0 ? '' : `;w=${integer(Math.max(1, seconds(windowMs)))}`
      // A budget has no window: a parameter of our own says what it has.
      return `${quoted(name)};q=${integer(limit)}${qu}${period === undefined ? w : `;period="${period}"`}`
    })
    .join(', ')
}

/** `RateLimit` of the same draft: `"burst";r=7;t=1, …`; `t` is left out while nothing is used. */
export function limitField(policies: readonly Pick<PolicyState, 'name' | 'remaining' | 'reset'>[]): string {
  let field = ''
  for (const { name, remaining, reset } of policies) {
    if (field !== '') field += ', '
    field += itemOf(name) + integer(remaining)
    if (reset > 0) field += `;t=${integer(seconds(reset))}`
  }
  return field
}

/** What stands before the numbers, by name of the policy. Names are few and checked at start. */
const items = new Map<string, string>()

function itemOf(name: string): string {
  let item = items.get(name)
  if (item === undefined) {
    item = `${quoted(name)};r=`
    items.set(name, item)
  }
  return item
}
