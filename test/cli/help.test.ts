import t from 'tap'
import { cli } from '../support/cli.js'

const COMMANDS = ['serve', 'call', 'bench-call', 'inspect', 'reset', 'keys', 'hash-key']

t.test('the help names every command, and each has one of its own, with examples', async t => {
  const { code, stdout } = await cli(['--help'])
  t.equal(code, 0)
  for (const command of COMMANDS) {
    t.match(stdout, new RegExp(`^ {2}${command} `, 'm'))
    const own = await cli([command, '--help'])
    t.equal(own.code, 0)
    t.match(own.stdout, /^Examples:$/m, command)
    t.same(await cli(['help', command]), own, `help ${command} is the same`)
  }
})

t.test('the examples use no command and no option that is not there', async t => {
  const helps = new Map<string, string>()
  for (const command of COMMANDS) helps.set(command, (await cli([command, '--help'])).stdout)
  const all = [(await cli(['--help'])).stdout, ...helps.values()].join('\n')
  const examples = [...all.matchAll(/npx ml-api-rate-limiter (\S+)(.*)/g)]
  t.ok(examples.length > 15)
  for (const [example, command = '', rest = ''] of examples) {
    const [words = ''] = rest.split(/ \| | {3,}/)
    for (const [option] of words.matchAll(/--[a-z-]+/g)) {
      t.match(helps.get(command), new RegExp(`^ {2}(-., )?${option}\\b`, 'm'), example)
    }
    t.ok(helps.has(command), example)
  }
})

t.test('a wrong call says what is wrong and where help is, and ends with 2', async t => {
  t.match(await cli([]), { code: 2, stdout: '', stderr: /^Usage: ml-api-rate-limiter/ })
  t.match(await cli(['serv']), { code: 2, stderr: /unknown command 'serv'\n\(Did you mean serve\?\)/ })
  t.match(await cli(['call', '--requets', '1']), { code: 2, stderr: /--requets.*\n.*--requests.*\n.*call --help/ })
  t.match(await cli(['inspect']), { code: 2, stderr: /missing required argument 'key'/ })
  t.match(await cli(['bench-call', '--duration', 'soon']), { code: 2, stderr: /--duration.*a duration such as 10s/ })
})

t.test('the version is that of the package', async t => {
  t.match(await cli(['--version']), { code: 0, stdout: /^\d+\.\d+\.\d+\n$/ })
})
