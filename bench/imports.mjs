// How long it takes to import the plugin, beside @fastify/rate-limit: fresh processes in turn, wall clock and processor.
// Usage: npm run bench:imports -- [--rounds 25]
import { execFileSync } from 'node:child_process'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { rounds } = parseArgs({ options: { rounds: { type: 'string', default: '25' } } }).values
const OURS = 'ml-api-rate-limiter'
const PEER = '@fastify/rate-limit'
const ROOT = fileURLToPath(new URL('..', import.meta.url))
const CHILD = `
const cpu = process.cpuUsage(), start = performance.now()
await import(process.argv[1])
const wall = performance.now() - start, { user, system } = process.cpuUsage(cpu)
console.log(wall, (user + system) / 1000)`

const times = { [OURS]: [], [PEER]: [] }
for (let round = 0; round < Number(rounds); round++) {
  for (const name of round % 2 === 0 ? [OURS, PEER] : [PEER, OURS]) {
    const args = ['--input-type=module', '--eval', CHILD, name]
    times[name].push(execFileSync(process.execPath, args, { cwd: ROOT, encoding: 'utf8' }).split(' ').map(Number))
  }
}

const median = (name, column) => {
  const values = times[name].map(row => row[column]).sort((a, b) => a - b)
  return values[Math.floor(values.length / 2)]
}
for (const name of [OURS, PEER]) {
  console.log(`${name.padEnd(20)} ${median(name, 0).toFixed(1)} ms, processor ${median(name, 1).toFixed(1)} ms`)
}
const ratio = column => (median(OURS, column) / median(PEER, column)).toFixed(2)
console.log(`ratio of medians     ${ratio(0)}, processor ${ratio(1)}`)
