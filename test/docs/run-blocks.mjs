/**
 * Runs the code blocks of a page one after the other, as `node run-blocks.mjs FILE …`, and ends when the last statement
 * of the last one has: whatever port they listen on is a free one of this machine, and servers and connections left
 * open are dropped. Before each, it prints a line with a NUL and the file.
 */
import { Server } from 'node:net'
import { pathToFileURL } from 'node:url'

const [node, , ...files] = process.argv

const { listen } = Server.prototype
Server.prototype.listen = function (options, ...rest) {
  const free = typeof options === 'object' ? { ...options, port: 0, host: '127.0.0.1' } : 0
  return listen.call(this, free, ...rest.filter(argument => typeof argument === 'function'))
}

for (const file of files) {
  // The block is the program that was started: the limiter's default name space is named after it.
  process.argv = [node, file]
  console.log(`\0${file}`)
  await import(pathToFileURL(file).href)
}
setImmediate(() => process.exit(0))
