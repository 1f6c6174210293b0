/** Poisson arrivals, the same for every contender of a round: a function that gives the next gap, in microseconds. */
export function arrivalsOf(seed) {
  const random = randomOf(seed)
  return rate => (-Math.log(random()) / rate) * 1e6
}

/** Numbers in (0, 1], the same for the same seed: mulberry32. */
export function randomOf(seed) {
  let state = seed
  return () => {
    state = (state + 0x6d2b79f5) | 0
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state)
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed
    return (((mixed ^ (mixed >>> 14)) >>> 0) + 1) / 4_294_967_297
  }
}
