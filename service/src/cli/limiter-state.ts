/** `inspect KEY` and `reset KEY`: what the limiter knows of a caller in Redis, read and forgotten by its own means. */
import { isIP } from 'node:net'
import { Command } from 'commander'
import { digestOfKey, keyOfAddress } from '../auth.js'
import { isId } from '../keys/key-text.js'
import { type Io, UsageError } from './io.js'
import type { Caller, CallerStanding } from './limiter-in-redis.js'
import { readSecret } from './secret.js'
import { addSettings, SETTINGS_HELP, settingsOf } from './settings.js'
import { table } from './table.js'

const SETTINGS = ['REDIS_URL', 'REDIS_NAMESPACE', 'LIMITS_FILE', 'KEYS_STORE', 'RATE_LIMIT_MAX', 'RATE_LIMIT_WINDOW']

const KEY = `KEY is one of
  192.0.2.7, 2001:db8::1     an address: of callers without an API key (IPv6 counts by its /64)
  2c26b46b…  (64 hex digits) an API key by its SHA-256, as "keys" of the limits file has it
  tY3f09aLq7WmZx2K           an API key by its id, as "keys list" shows it
  -                          an API key itself, asked for without showing it, or read from a pipe
  ip:192.0.2.7, key:2c26b46b…  the same, as it stands in Redis`

const settingsHelp = `
The limits are counted in Redis, so REDIS_URL has to be that of the service, and so have the name space and the limits.
${SETTINGS_HELP}`

const INSPECT_EXAMPLES = `
${KEY}
${settingsHelp}

Examples:
  $ npx ml-api-rate-limiter inspect 192.0.2.7 --redis-url redis://localhost
  $ npx ml-api-rate-limiter inspect - --env-file production.env < key.txt
  $ npx ml-api-rate-limiter inspect 192.0.2.7 --json | jq '.policies[].remaining'
`

const RESET_EXAMPLES = `
${KEY}
${settingsHelp}
What all API keys of its owner share is given back too.
A replica that has just denied the caller may go on denying it for a second.

Examples:
  $ npx ml-api-rate-limiter reset 192.0.2.7 --redis-url redis://localhost
  $ npx ml-api-rate-limiter reset - --env-file production.env
`

type Options = Readonly<Record<string, unknown>>

export function inspectCommand(io: Io): Command {
  const command = new Command('inspect')
    .summary('show what is left of the limits of a caller in Redis')
    .description('Shows what is left of every limit of the plan of a caller. Counts nothing.')
    .argument('<key>', 'whose quota: see below')
    .option('--json', 'print one JSON object, for programs')
  return addSettings(command, SETTINGS)
    .addHelpText('after', INSPECT_EXAMPLES)
    .action((key: string, options: Options) => act('inspect', key, options, io))
}

export function resetCommand(io: Io): Command {
  const command = new Command('reset')
    .summary('give a caller its whole quota back')
    .description('Resets the limits of a caller in Redis. It has the whole quota of every limit again.')
    .argument('<key>', 'whose quota: see below')
    .option('--json', 'print what is left then, as one JSON object, for programs')
  return addSettings(command, SETTINGS)
    .addHelpText('after', RESET_EXAMPLES)
    .action((key: string, options: Options) => act('reset', key, options, io))
}

async function act(what: 'inspect' | 'reset', given: string, options: Options, io: Io): Promise<void> {
  const settings = settingsOf(options, io.env)
  const caller = await readCaller(given, io)
  // Loaded by who needs it: the other commands begin sooner.
  const { standingInRedis } = await import('./limiter-in-redis.js')
  const standing = await standingInRedis(caller, settings.environment, what === 'reset')
  if (options.json) {
    io.stdout.write(`${json(standing)}\n`)
    return
  }
  io.stdout.write(human(standing, io))
  if (what === 'reset') io.stdout.write(`${standing.key} has its whole quota again\n`)
}

async function readCaller(given: string, io: Io): Promise<Caller> {
  if (given === '-') {
    const key = await readSecret(io, 'API key (not shown): ')
    if (key === '') throw new UsageError('no key was given')
    return { sha256: digestOfKey(key) }
  }
  const id = given.replace(/^key:/, '').replace(/\/owner:.*$/s, '')
  if (isId(id)) return { id }
  const sha256 = given.replace(/^key:/, '').toLowerCase()
  if (/^[0-9a-f]{64}$/.test(sha256)) return { sha256 }
  const address = given.replace(/^ip:/, '')
  if (isIP(address.split('/', 1)[0] as string) !== 0) {
    return { address: keyOfAddress(address.replace(/\/\d+$/, '')) }
  }
  // Not quoted: it may be an API key.
  throw new UsageError('KEY takes an address, the SHA-256 or the id of an API key, or - to ask for the API key')
}

const json = ({ key, plan, policies }: CallerStanding): string =>
  JSON.stringify({
    key,
    plan,
    policies: policies.map(({ name, unit, limit, remaining, windowMs, period, reset, ahead = 0 }) => ({
      ...{ name, unit, limit, used: limit - remaining, remaining, ahead },
      ...(period === undefined ? { windowSeconds: windowMs / 1000 } : { period }),
      resetSeconds: Math.ceil(reset / 1000),
    })),
  })

function human({ key, plan, policies }: CallerStanding, { stdout, env }: Io): string {
  const rows = policies.map(({ name, unit, limit, remaining, windowMs, period, reset, ahead = 0 }) => [
    ...[
      name,
      unit,
      limit,
      period ?? (windowMs === 0 ? '' : `${windowMs / 1000} s`),
      limit - remaining,
      ahead,
      remaining,
    ],
    reset === 0 ? '' : `${Math.ceil(reset / 1000)} s`,
  ])
  const headings = ['policy', 'unit', 'limit', 'window', 'used', 'ahead', 'remaining', 'more in']
  return `${key}  plan ${plan}\n${table(stdout, env, headings, rows, [2, 3, 4, 5, 6, 7])}`
}
