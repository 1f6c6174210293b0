/** The same, fifty times: `npm run test:keys`. */
import t from 'tap'
import { killAgainAndAgain } from './killed.js'

const ROUNDS = 25
const skip = process.env.REDIS_SERVER_BIN === undefined ? 'there is no Redis program here to start' : false

t.setTimeout(0)
t.test('keys in a file survive a service that is killed again and again', t => killAgainAndAgain(t, ROUNDS, false))
t.test('keys in Redis survive both that are killed again and again', { skip }, t => killAgainAndAgain(t, ROUNDS, true))
