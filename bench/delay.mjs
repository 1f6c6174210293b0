import { connect, createServer } from 'node:net'
import { answerParent } from './child.mjs'

/**
 * A network in front of Redis: passes on what it gets, both ways, after a delay: node delay.mjs <port of Redis> <ms>.
 * The timers of Node.js end up to a millisecond late, so the delay is a little longer than asked for.
 */
const [port, ms] = process.argv.slice(2).map(Number)

/** Passes on what comes from one socket to the other, in order, each chunk `ms` after it came. */
function pass(from, to) {
  const later = act => setTimeout(() => to.destroyed || act(), ms)
  from.on('data', chunk => later(() => to.write(chunk)))
  from.on('end', () => later(() => to.end()))
  from.on('error', () => to.destroy())
  from.on('close', () => later(() => to.destroy()))
}

const server = createServer({ noDelay: true, allowHalfOpen: true }, client => {
  const redis = connect({ port, host: '127.0.0.1', noDelay: true, allowHalfOpen: true })
  pass(client, redis)
  pass(redis, client)
})
await new Promise(resolve => server.listen(0, '127.0.0.1', resolve))

/** Microseconds of CPU so far. */
answerParent({ port: server.address().port }, () => {
  const { user, system } = process.cpuUsage()
  return { cpu: user + system }
})
