/** The SHA-256 of an API key, for the limits file. The key comes from a prompt or a pipe, never from an argument. */
import { randomBytes } from 'node:crypto'
import { Command } from 'commander'
import { digestOfKey } from '../auth.js'
import { type Io, UsageError } from './io.js'
import { readSecret } from './secret.js'

const EXAMPLES = `
Why not as an argument: it would stay in the shell's history, and every user of the machine could see it in the list
of processes. So it is asked for, without showing it, or read from a pipe.

Examples:
  $ npx ml-api-rate-limiter hash-key                      ask for a key, print its SHA-256
  $ npx ml-api-rate-limiter hash-key --plan pro           print the entry for "keys" in the limits file
  $ npx ml-api-rate-limiter hash-key --new --plan pro     make a key, show it this once, and its entry
  $ npx ml-api-rate-limiter hash-key < key.txt            the key in a file; a line end does not count
  $ printf %s "$KEY" | npx ml-api-rate-limiter hash-key   the key in a variable
`

interface Options {
  readonly new?: true
  readonly plan?: string
}

export function hashKeyCommand(io: Io): Command {
  return (
    new Command('hash-key')
      .summary('print the SHA-256 of an API key for the limits file')
      .description('Prints the SHA-256 of an API key, for "keys" in the limits file (LIMITS_FILE).')
      .option('--new', 'make a new random key of 192 bits, and print it too')
      .option('--plan <name>', 'print the whole entry for "keys", with this plan')
      // Taken, so that it can be said what is wrong with it.
      .argument('[key]')
      .usage('[options]')
      .addHelpText('after', EXAMPLES)
      .action(async (argument: string | undefined, options: Options) => {
        if (argument !== undefined) {
          throw new UsageError(
            'a key must not be an argument: it is now in the history of your shell, so make another one (--new)',
          )
        }
        const key = options.new ? randomBytes(24).toString('hex') : await readSecret(io, 'API key (not shown): ')
        if (key === '') throw new UsageError('no key was given')
        if (!/^[\x21-\x7e]+$/.test(key)) {
          throw new UsageError(
            'this is not an API key: a key is visible ASCII without spaces, because it is sent in a header',
          )
        }
        const sha256 = digestOfKey(key)
        const shown = options.plan === undefined ? sha256 : JSON.stringify({ sha256, plan: options.plan })
        // The key goes where it can be kept apart from what the file needs.
        if (options.new) io.stderr.write(`key, shown this once: ${key}\n`)
        io.stdout.write(`${shown}\n`)
      })
  )
}
