/** The simulation has teeth: it finds what is planted in the sources. */
import t from 'tap'
import { PLANTED } from './planted.js'
import { simulate } from './simulate.mjs'

/** Schedules in which each error has to show. The rarest, a refund that is sent twice, shows after some four thousand. */
const SCHEDULES = 10_000

for (const [what, plant] of Object.entries(PLANTED)) {
  t.test(`the simulation finds ${what}`, async t => {
    const { code, said } = await simulate(['--brief', '--seed', '1', '--schedules', `${SCHEDULES}`], { plant })
    t.equal(code, 1, said)
    t.match(said, /^seed \d+: /)
  })
}
