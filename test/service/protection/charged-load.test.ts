import t, { type Test } from 'tap'
import { STORES } from '../../support/build.js'
import { checkCharges } from './charged-load.js'

// Each worker compiles the TypeScript that it runs: seconds on a busy machine, nothing in the built service.
t.setTimeout(300_000)

for (const store of STORES) {
  t.test(
    `what is charged is what ran, to the millisecond, whatever happens meanwhile, ${store.name}`,
    async (t: Test) => {
      await checkCharges(t, store, { requests: 120, mostRounds: 1 })
    },
  )
}
