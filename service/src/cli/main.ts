/** The command line: `npx ml-api-rate-limiter …`. */
import { readFileSync } from 'node:fs'
import { Command, CommanderError } from 'commander'
import { benchCallCommand } from './bench-call.js'
import { callCommand } from './call.js'
import { hashKeyCommand } from './hash-key.js'
import { coloursOf, EXIT, Failure, hasColours, type Io, UsageError } from './io.js'
import { keysCommand } from './keys.js'
import { inspectCommand, resetCommand } from './limiter-state.js'
import { serveCommand } from './serve.js'

const EXAMPLES = `
Examples:
  $ npx ml-api-rate-limiter serve                       the service with the models in ./models, on port 3000
  $ npx ml-api-rate-limiter call                        ask it for predictions, and wait as it says
  $ npx ml-api-rate-limiter bench-call --duration 10s   see how much it answers, how fast, and whom it denies
  $ npx ml-api-rate-limiter inspect 192.0.2.7           where a client stands (limits in Redis)
  $ npx ml-api-rate-limiter reset 192.0.2.7             give it its whole quota back
  $ npx ml-api-rate-limiter keys create --owner acme --plan pro   an API key, known to the service within a second
  $ npx ml-api-rate-limiter hash-key --new --plan pro   an API key, and its entry for the limits file
  $ npx ml-api-rate-limiter serve --help                options of a command, with examples

It exits with 0 when all went well, 1 when something failed, 2 when it was called wrongly, 130 after Ctrl-C.
Elsewhere than on a terminal it prints plain lines; NO_COLOR=1 has it print without colours.
`

const version = (): string =>
  (JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as { version: string }).version

/** Runs one command. Resolves with the exit code; of `serve` as soon as it listens. */
export async function main(args: readonly string[], io: Io = process): Promise<number> {
  const { stdout, stderr, env } = io
  let exitCode: number = EXIT.done
  const end = (code: number) => {
    exitCode = code
  }
  const program = new Command('ml-api-rate-limiter')
    .description('Predictions of ONNX models over HTTP, behind exact sliding-window limits.')
    .version(version(), '-V, --version', 'print the version')
    .helpCommand('help [command]', 'the same as --help')
    .configureHelp({
      styleTitle: text => coloursOf(stdout, env).bold(text),
      subcommandTerm: command => `${command.name()} ${command.usage()}`,
    })
    .configureOutput({
      writeOut: text => stdout.write(text),
      writeErr: text => stderr.write(text),
      getOutHelpWidth: () => Math.max(80, stdout.columns ?? 120),
      getErrHelpWidth: () => Math.max(80, stderr.columns ?? 120),
      getOutHasColors: () => hasColours(stdout, env),
      getErrHasColors: () => hasColours(stderr, env),
    })
    .addHelpText('after', EXAMPLES)
    .exitOverride()
  const commands = [
    serveCommand(io),
    callCommand(io, end),
    benchCallCommand(io, end),
    inspectCommand(io),
    resetCommand(io),
    keysCommand(io),
    hashKeyCommand(io),
  ]
  for (const command of commands) {
    program.addCommand(command.copyInheritedSettings(program).helpOption('-h, --help', 'this text'))
    command.showHelpAfterError(`ml-api-rate-limiter ${command.name()} --help shows its options`)
  }
  program.showHelpAfterError('ml-api-rate-limiter --help lists the commands')
  try {
    await program.parseAsync([...args], { from: 'user' })
    return exitCode
  } catch (error) {
    // It has said what it had to.
    if (error instanceof CommanderError) return error.exitCode === 0 ? EXIT.done : EXIT.wrongUsage
    if (!(error instanceof UsageError || error instanceof Failure)) throw error
    stderr.write(`${coloursOf(stderr, env).red('error:')} ${error.message}\n`)
    return error instanceof UsageError ? EXIT.wrongUsage : EXIT.failed
  }
}
