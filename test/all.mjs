/**
 * Every suite there is, one after the other: `npm run test:all`, or some of them with `npm run test:all -- image …`.
 *
 * A suite is `npm test`, and each script of package.json whose name begins with `test:`. So a suite is added by adding its
 * script. One that lacks something on this machine skips itself and says what. Ends with 0 if none failed.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { readFileSync } from 'node:fs'

const { scripts } = JSON.parse(readFileSync(new URL('../package.json', import.meta.url), 'utf8'))
const suites = ['test', ...Object.keys(scripts).filter(name => name.startsWith('test:') && name !== 'test:all')]

const wanted = process.argv.slice(2).map(name => (name === 'test' ? name : `test:${name.replace(/^test:/, '')}`))
const unknown = wanted.filter(name => !suites.includes(name))
if (unknown.length > 0) {
  process.stderr.write(`there is no suite ${unknown.join(', ')}; there are ${suites.join(', ')}\n`)
  process.exit(2)
}

const results = []
for (const suite of wanted.length > 0 ? wanted : suites) {
  process.stdout.write(`\n== npm run ${suite}\n`)
  const began = performance.now()
  const child = spawn('npm', ['run', '--silent', suite], { stdio: 'inherit' })
  const [code, signal] = await once(child, 'exit')
  results.push({ suite, passed: code === 0, seconds: Math.round((performance.now() - began) / 1000) })
  if (signal !== null) break
}

process.stdout.write('\n')
for (const { suite, passed, seconds } of results) {
  process.stdout.write(`${passed ? 'passed' : 'FAILED'}  ${suite} (${seconds} s)\n`)
}
const failed = results.filter(({ passed }) => !passed).length
process.stdout.write(`suites: ${results.length - failed} passed, ${failed} failed\n`)
process.exitCode = failed === 0 ? 0 : 1
