/**
 * Runs one code block of the documentation, as `node run-block.mjs FILE`, and ends when its last statement has:
 * whatever port it listens on is a free one of this machine, and servers and connections left open are dropped.
 */
import { Server } from 'node:net'
import { pathToFileURL } from 'node:url'

const file = process.argv[2]
// The block is the program that was started: the limiter's default name space is named after it.
process.argv = [process.argv[0], file]

const { listen } = Server.prototype
Server.prototype.listen = function (options, ...rest) {
  const free = typeof options === 'object' ? { ...options, port: 0, host: '127.0.0.1' } : 0
  return listen.call(this, free, ...rest.filter(argument => typeof argument === 'function'))
}

await import(pathToFileURL(file).href)
setImmediate(() => process.exit(0))
