/**
 * The long run of the fuzz: `npm run fuzz`, or `npm run fuzz -- --requests 1000000 --seed 7 --minutes 120`. What it tells,
 * and the seed that repeats it, goes to the terminal; the exit code is 0 only if everything held.
 */
import { spawn } from 'node:child_process'
import { randomInt } from 'node:crypto'
import { fileURLToPath } from 'node:url'
import { parseArgs } from 'node:util'

const { env } = process
const { values } = parseArgs({
  options: {
    requests: { type: 'string', default: env.FUZZ_REQUESTS ?? '100000' },
    seed: { type: 'string', default: env.FUZZ_SEED ?? String(randomInt(2 ** 30)) },
    minutes: { type: 'string', default: env.FUZZ_MINUTES ?? '20' },
  },
})
const { requests, seed, minutes } = values
for (const [name, value] of Object.entries(values)) {
  if (!/^[1-9]\d{0,9}$/.test(value)) throw new TypeError(`--${name} takes a whole number above 0`)
}
process.stderr.write(`fuzz: ${requests} requests in at most ${minutes} minutes; again with --seed ${seed}\n`)

const args = ['tap', '--disable-coverage', '--allow-empty-coverage', '--reporter=tap', '--timeout=0']
const test = fileURLToPath(new URL('./fuzz.test.ts', import.meta.url))
const child = spawn('npx', [...args, test], {
  stdio: 'inherit',
  env: { ...env, FUZZ_REQUESTS: requests, FUZZ_SEED: seed, FUZZ_MINUTES: minutes },
})
child.on('exit', code => process.exit(code ?? 1))
