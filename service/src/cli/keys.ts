/** `keys create | list | revoke | rotate`: API keys in their store, whether or not the service runs. */
import { Argument, Command, Option } from 'commander'
import type { KeyRecord } from '../keys/key-record.js'
import { duration } from './arguments.js'
import { type Io, UsageError } from './io.js'
import type { KeyAction } from './keys-in-store.js'
import { addSettings, SETTINGS_HELP, settingsOf } from './settings.js'
import { table } from './table.js'

const SETTINGS = ['KEYS_STORE', 'REDIS_NAMESPACE', 'LIMITS_FILE', 'MODELS_DIR']

const EXAMPLES = `
The keys are where KEYS_STORE says; replicas that use it know of a change within a second. A key is printed when it is
made, and never again: the store has its SHA-256 alone.
${SETTINGS_HELP}

Examples:
  $ npx ml-api-rate-limiter keys create --owner acme --plan pro                a key, alone on standard output
  $ npx ml-api-rate-limiter keys create --owner acme --plan pro --name ci --expires-at 2030-01-31 --models digits,iris
  $ npx ml-api-rate-limiter keys list --owner acme                             all keys of an owner
  $ npx ml-api-rate-limiter keys list --json | jq '.[].id'
  $ npx ml-api-rate-limiter keys revoke tY3f09aLq7WmZx2K                       from now on it gets 401
  $ npx ml-api-rate-limiter keys rotate tY3f09aLq7WmZx2K --overlap 1h          a new text; the old one lives for an hour
`

interface Options extends Readonly<Record<string, unknown>> {
  readonly owner?: string
  readonly plan?: string
  readonly name?: string
  readonly models?: string
  readonly expiresAt?: string
  readonly disabled?: true
  readonly overlap?: number
  readonly json?: true
}

/** Options of each action, and whether it takes the id of a key. */
const TAKES: Readonly<Record<KeyAction, { readonly id: boolean; readonly options: readonly string[] }>> = {
  create: { id: false, options: ['owner', 'plan', 'name', 'models', 'expiresAt'] },
  list: { id: false, options: ['owner', 'plan', 'disabled'] },
  revoke: { id: true, options: [] },
  rotate: { id: true, options: ['overlap'] },
}
const OWN_OPTIONS = ['owner', 'plan', 'name', 'models', 'expiresAt', 'disabled', 'overlap']

export function keysCommand(io: Io): Command {
  const command = new Command('keys')
    .summary('make, list, revoke and rotate API keys')
    .description('Makes, lists, revokes and rotates API keys in their store (KEYS_STORE).')
    .addArgument(new Argument('<action>', 'what to do').choices(Object.keys(TAKES)))
    .argument('[id]', 'id of the key to revoke or rotate')
    .option('--owner <text>', 'create: owner of the key; list: only keys of this owner')
    .option('--plan <name>', 'create: plan of the key; list: only keys with this plan')
    .option('--name <text>', 'create: a name for the key')
    .option('--models <names>', 'create: models that it may use, comma-separated (default: all of its plan)')
    .option('--expires-at <time>', 'create: when it expires, in ISO 8601 (default: never)')
    .option('--disabled', 'list: only disabled keys')
    .addOption(
      new Option('--overlap <duration>', 'rotate: how long the old key still works (default: 0)').argParser(duration),
    )
    .option('--json', 'print JSON, for programs')
  return addSettings(command, SETTINGS)
    .addHelpText('after', EXAMPLES)
    .action((action: KeyAction, id: string | undefined, options: Options) => act(action, id, options, io))
}

async function act(action: KeyAction, id: string | undefined, options: Options, io: Io): Promise<void> {
  const takes = TAKES[action]
  if (takes.id !== (id !== undefined)) {
    throw new UsageError(takes.id ? `keys ${action} takes the id of a key` : `keys ${action} takes no id`)
  }
  for (const name of OWN_OPTIONS) {
    if (options[name] !== undefined && !takes.options.includes(name)) {
      throw new UsageError(`keys ${action} takes no --${name.replace('A', '-a')}`)
    }
  }
  const settings = settingsOf(options, io.env)
  // Loaded by who needs it: the other commands begin sooner.
  const { withKeys } = await import('./keys-in-store.js')
  await withKeys(settings.environment, async keys => {
    if (action === 'list') {
      const found = keys.list({ owner: options.owner, plan: options.plan, disabled: options.disabled })
      io.stdout.write(options.json ? `${JSON.stringify(found)}\n` : listed(found, io))
      return
    }
    if (action === 'revoke') {
      const record = await keys.revoke(id as string)
      io.stdout.write(options.json ? `${JSON.stringify({ id: record.id })}\n` : `${about(record)} is revoked\n`)
      return
    }
    const { record, key } =
      action === 'create' ? await keys.create(fieldsOf(options)) : await keys.rotate(id as string, options.overlap ?? 0)
    if (options.json) io.stdout.write(`${JSON.stringify({ ...record, key })}\n`)
    else {
      io.stderr.write(`${about(record)}; the key is shown this once\n`)
      io.stdout.write(`${key}\n`)
    }
  })
}

function fieldsOf({ owner, plan, name, models, expiresAt }: Options) {
  if (owner === undefined || plan === undefined) throw new UsageError('keys create needs --owner and --plan')
  return {
    owner,
    plan,
    ...(name === undefined ? {} : { name }),
    ...(models === undefined ? {} : { models: models.split(',').map(each => each.trim()) }),
    ...(expiresAt === undefined ? {} : { expiresAt }),
  }
}

const about = ({ id, owner, plan }: Pick<KeyRecord, 'id' | 'owner' | 'plan'>): string =>
  `key ${id} of ${owner}, plan ${plan}`

type Listed = Pick<KeyRecord, 'id' | 'owner' | 'plan' | 'name' | 'models' | 'expiresAt' | 'createdAt'> & {
  readonly standing: string
}

function listed(keys: readonly Listed[], { stdout, env }: Io): string {
  const rows = keys.map(({ id, owner, plan, name, models, standing, expiresAt, createdAt }) => [
    ...[id, owner, plan, name ?? '', models === null ? 'all' : models.join(','), standing],
    ...[createdAt.slice(0, 10), expiresAt?.slice(0, 10) ?? ''],
  ])
  return table(stdout, env, ['id', 'owner', 'plan', 'name', 'models', 'standing', 'made', 'ends'], rows)
}
