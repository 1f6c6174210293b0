import { median, summarise } from '../summary.mjs'
import { contenders } from './contenders.mjs'

/** Figures of which the ratio to each other contender is kept. */
const RATIOS = ['serverUs', 'redisUs', 'addedUs']

/**
 * The medians of a scenario, by contender. `addedUs`: what a limiter adds to the processor time of a request: the server's
 * over that of Fastify without a limiter in the same round, and the time of Redis. `cpuRatios`: of each processor time
 * the ratio to that of each other contender, taken within each round.
 *
 * @param {Record<string, object[]>} slices by contender, in the order of the rounds
 */
export function figuresOf(slices) {
  for (const [name, own] of Object.entries(slices)) {
    const { base = 'bare', store } = contenders[name]
    for (const [round, slice] of own.entries()) {
      const bare = slices[base]?.[round]?.serverUs ?? Number.NaN
      slice.addedUs = slice.serverUs - bare + (store === 'redis' ? slice.redisUs : 0)
    }
  }
  const rows = summarise(slices)
  for (const [name, own] of Object.entries(slices)) {
    const others = Object.entries(slices).filter(([other]) => other !== name)
    rows[name].addedUs = median(own.map(({ addedUs }) => addedUs))
    rows[name].cpuRatios = Object.fromEntries(
      RATIOS.map(field => [
        field,
        Object.fromEntries(
          others.map(([other, theirs]) => [other, median(own.map((slice, at) => slice[field] / theirs[at][field]))]),
        ),
      ]),
    )
  }
  return rows
}
