/**
 * Which of `count` clients asks: the k-th with a chance in proportion to 1/k, as crowds do. Walker's alias method, in
 * the form of Vose (1991): a draw takes the same time for any count.
 *
 * @param {number} count @returns {(random: () => number) => number}
 */
export function zipf(count) {
  const share = new Float64Array(count)
  let sum = 0
  for (let index = 0; index < count; index++) sum += 1 / (index + 1)
  for (let index = 0; index < count; index++) share[index] = count / (index + 1) / sum
  const alias = new Uint32Array(count)
  const small = []
  const large = []
  for (let index = 0; index < count; index++) (share[index] < 1 ? small : large).push(index)
  while (small.length > 0 && large.length > 0) {
    const less = small.pop()
    const more = large.pop()
    alias[less] = more
    share[more] -= 1 - share[less]
    ;(share[more] < 1 ? small : large).push(more)
  }
  for (const index of [...small, ...large]) share[index] = 1
  return random => {
    const at = random() * count
    const index = Math.floor(at)
    return at - index < share[index] ? index : alias[index]
  }
}

/** The share of requests that the first of them sends. */
export function shareOfFirst(count) {
  let sum = 0
  for (let index = 1; index <= count; index++) sum += 1 / index
  return 1 / sum
}
