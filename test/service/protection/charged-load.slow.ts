import t, { type Test } from 'tap'
import { STORES } from '../../support/build.js'
import { checkCharges } from './charged-load.js'

for (const store of STORES) {
  t.test(`what is charged is what ran, whatever becomes of the caller and the run, ${store.name}`, async (t: Test) => {
    t.strictSame(await checkCharges(t, store, { requests: 400, mostRounds: 30 }), [], 'every kind of end has come')
  })
}
