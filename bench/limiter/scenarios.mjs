/** The key that a request is counted by. */
export const KEY_HEADER = 'x-api-key'
const keys = count => Array.from({ length: count }, (_, index) => `client-${String(index).padStart(4, '0')}`)
const hot = Array.from({ length: 10 }, (_, index) => `hot-client-${index}`)
const many = shuffled(keys(1000))

const minute = { max: 10_000, windowMs: 60_000 }

/**
 * `policies`: what a key may do. `keys`: the keys of one request after the other, over and over. `hot`: keys whose
 * quota is used up before anything is measured. `denied`: the share of requests that must be denied from then on.
 * `rate`: requests a second where they are fixed; else as many as 64 connections get answered.
 */
export const scenarios = {
  allowed: {
    title: 'all allowed, 1,000 keys',
    policies: [minute],
    keys: many,
    denied: 0,
  },
  denied: {
    title: 'all denied, 10 hot keys',
    policies: [{ max: 100, windowMs: 3_600_000 }],
    keys: hot,
    hot,
    denied: 1,
  },
  half: {
    title: 'half allowed, half denied',
    policies: [{ max: 2000, windowMs: 3_600_000 }],
    keys: many.flatMap((key, index) => [key, hot[index % hot.length]]),
    hot,
    denied: 0.5,
  },
  'one-key': {
    title: 'one hot key, allowed',
    policies: [{ max: 100_000_000, windowMs: 60_000 }],
    keys: ['client-0001'],
    denied: 0,
  },
  policies: {
    title: 'three policies at once, allowed, 1,000 keys',
    policies: [{ max: 1000, windowMs: 1000 }, minute, { max: 1_000_000, windowMs: 86_400_000 }],
    keys: many,
    denied: 0,
  },
  paced: {
    title: '3,000 requests a second, allowed, 1,000 keys',
    policies: [minute],
    keys: many,
    denied: 0,
    rate: 3000,
  },
}

/** The same order at every run: neighbours in the list are no neighbours in the store. */
function shuffled(list) {
  let seed = 1
  for (let index = list.length - 1; index > 0; index--) {
    seed = (seed * 48_271) % 2_147_483_647
    const other = seed % (index + 1)
    ;[list[index], list[other]] = [list[other], list[index]]
  }
  return list
}
