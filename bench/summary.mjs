/** @param {number[]} values */
export function median(values) {
  const sorted = [...values].sort((a, b) => a - b)
  const middle = sorted.length >> 1
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
}

function quantile(values, share) {
  const sorted = [...values].sort((a, b) => a - b)
  return sorted[Math.round(share * (sorted.length - 1))]
}

const FIELDS = ['perSecond', 'p50', 'p99', 'serverUs', 'redisUs', 'generatorUs', 'generatorShare', 'othersShare', 'rss']

/**
 * The median of each figure over the rounds. Ratios are taken within each round, whose slices lie seconds apart and so
 * share whatever else the machine was doing, and the median of these is given.
 *
 * @param {Record<string, object[]>} slices
 */
export function summarise(slices) {
  const rows = {}
  for (const [name, own] of Object.entries(slices)) {
    rows[name] = Object.fromEntries(FIELDS.map(field => [field, median(own.map(slice => slice[field]))]))
    rows[name].bestPerSecond = quantile(
      own.map(slice => slice.perSecond),
      0.9,
    )
    rows[name].ratios = Object.fromEntries(
      Object.entries(slices).map(([other, theirs]) => [
        other,
        median(own.map(({ perSecond }, round) => perSecond / theirs[round].perSecond)),
      ]),
    )
  }
  return rows
}
