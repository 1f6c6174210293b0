/**
 * `npm run test:clients`: every client that the plugin takes, against servers, clusters and Sentinels of its own.
 * `CLIENTS='GLIDE'` tries those alone whose name has this in it.
 */
import t from 'tap'
import { candidates } from './candidates.js'
import { conform } from './conformance.js'

const wanted = process.env.CLIENTS ?? ''

for (const candidate of candidates) {
  if (candidate.name.includes(wanted)) t.test(candidate.name, t => conform(t, candidate))
}
