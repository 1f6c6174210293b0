/**
 * Builds, and then runs a program with what was built: `node scripts/built.mjs PROGRAM [ARGUMENTS]`.
 *
 * The scripts of package.json do this in place of `pre…` scripts, which npm leaves out where `ignore-scripts` is set, as
 * in .npmrc. The program runs in this process, so that signals reach it.
 */
import { spawnSync } from 'node:child_process'
import { resolve } from 'node:path'
import { pathToFileURL } from 'node:url'

const [program = '', ...args] = process.argv.slice(2)
const { status } = spawnSync('npm', ['run', 'build', '--silent'], {
  // What the build says goes to stderr: stdout belongs to the program.
  stdio: ['ignore', process.stderr, process.stderr],
  shell: process.platform === 'win32',
})
if (status !== 0) process.exit(status ?? 1)
const file = resolve(program)
process.argv = [process.argv[0], file, ...args]
await import(pathToFileURL(file).href)
