import t from 'tap'
import { killAgainAndAgain } from './killed.js'

const skip = process.env.REDIS_SERVER_BIN === undefined ? 'there is no Redis program here to start' : false

t.test('keys in a file survive a service that is killed', t => killAgainAndAgain(t, 2, false))
t.test('keys in Redis survive a service and a Redis that are killed', { skip }, t => killAgainAndAgain(t, 2, true))
