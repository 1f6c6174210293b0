#!/usr/bin/env node
/** Starts the command line as it was built. In a clone that was not built yet it builds it first, once. */
import { spawnSync } from 'node:child_process'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const program = new URL('../dist/bundle/main.js', import.meta.url)
const root = new URL('../../', import.meta.url)

function build() {
  process.stderr.write('ml-api-rate-limiter: not built yet; running `npm run build` once …\n')
  // What the build says goes to stderr: stdout belongs to the command.
  const { status } = spawnSync('npm', ['run', 'build', '--silent'], {
    cwd: fileURLToPath(root),
    stdio: ['ignore', process.stderr, process.stderr],
    shell: process.platform === 'win32',
  })
  if (status === 0 && existsSync(program)) return
  process.stderr.write('ml-api-rate-limiter: the build failed; it needs what a plain `npm ci` installs\n')
  process.exit(1)
}

// Whoever reads may have read enough: `… | head`.
process.stdout.on('error', error => {
  if (error.code === 'EPIPE') process.exit()
  throw error
})

if (!existsSync(program)) build()
const { main } = await import(program.href)
process.exitCode = await main(process.argv.slice(2))
