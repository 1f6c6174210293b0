/** The key that a request is counted by. */
export const KEY_HEADER = 'x-api-key'
const keys = count => Array.from({ length: count }, (_, index) => `client-${String(index).padStart(4, '0')}`)
const hot = Array.from({ length: 10 }, (_, index) => `hot-client-${index}`)
const many = shuffled(keys(1000))

const minute = { max: 10_000, windowMs: 60_000 }
const plenty = { max: 100_000_000, windowMs: 60_000 }

/**
 * `policies`: what a key may do. `keys`: the keys of one request after the other, over and over; without them each
 * request has a new key. `hot`: keys whose quota is used up before anything is measured. `denied`: the share of requests
 * that must be denied from then on. `rate`: requests a second where they are fixed; else as many as 64 connections get
 * answered.
 *
 * `history`: every log has an entry in each slice of its window when a slice of the bench begins.
 * `long`: slices are long enough for prefetched quota to reach a steady state.
 * `concurrency`: permits for each key. `byAddress`: the key is the client's address, and connections come from
 * 64 addresses. `delayMs`: network delay in front of Redis, each way.
 * `only`: the contenders that take part, all where left out.
 */
export const scenarios = {
  allowed: {
    title: 'all allowed, 1,000 keys',
    policies: [minute],
    keys: many,
    denied: 0,
    history: true,
    long: true,
  },
  'one-key': {
    title: 'one hot key, allowed',
    policies: [plenty],
    keys: ['client-0001'],
    denied: 0,
    history: true,
    long: true,
  },
  cold: {
    title: 'each key once, allowed',
    policies: [{ max: 1000, windowMs: 10_000 }],
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
    policies: [{ max: 5000, windowMs: 3_600_000 }],
    keys: many.flatMap((key, index) => [key, hot[index % hot.length]]),
    hot,
    denied: 0.5,
    history: true,
    long: true,
  },
  policies: {
    title: 'three policies at once, allowed, 1,000 keys',
    policies: [{ max: 1000, windowMs: 1000 }, minute, { max: 1_000_000, windowMs: 86_400_000 }],
    keys: many,
    denied: 0,
    history: true,
    long: true,
  },
  permits: {
    title: 'permits beside the window, allowed, 1,000 keys',
    policies: [minute],
    concurrency: { max: 100 },
    keys: many,
    denied: 0,
    history: true,
    only: ['bare', 'ours-redis', 'ours-before', 'ours-memory', 'ours-before-memory'],
  },
  mapped: {
    title: '64 clients on IPv4-mapped addresses (::ffff:), allowed',
    policies: [plenty],
    byAddress: true,
    keys: [''],
    denied: 0,
    history: true,
    long: true,
  },
  paced: {
    title: '3,000 requests a second, allowed, 1,000 keys',
    policies: [minute],
    keys: many,
    denied: 0,
    rate: 3000,
    history: true,
    long: true,
  },
  delayed: {
    title: '1 ms each way to Redis, one busy key, 3,000 requests a second',
    policies: [plenty],
    keys: ['client-0001'],
    denied: 0,
    rate: 3000,
    history: true,
    long: true,
    delayMs: 1,
  },
  'delayed-full': {
    title: '1 ms each way to Redis, one hot key, allowed',
    policies: [plenty],
    keys: ['client-0001'],
    denied: 0,
    history: true,
    long: true,
    delayMs: 1,
  },
}

/** Clients that have an address each where requests are counted by address: one for each connection. */
export const ADDRESSES = Array.from({ length: 64 }, (_, index) => `127.0.1.${index + 1}`)

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
