/** The service's settings on the command line: each is an option too, and a file may hold them. */
import { readFileSync } from 'node:fs'
import { parseEnv } from 'node:util'
import { type Command, Option } from 'commander'
import { type Environment, settings, wordsOf } from '../config.js'
import { UsageError } from './io.js'

/** Only from the environment or a file: everybody on the machine sees the arguments of a process. */
const NEVER_AN_ARGUMENT: ReadonlySet<string> = new Set(['ADMIN_TOKEN'])

export const SETTINGS_HELP = `Settings come from options, then from the environment, then from --env-file; the first that has one wins.`

const optionOf = (name: string): string => `--${name.toLowerCase().replaceAll('_', '-')}`

/** Adds options for these settings, and `--env-file`. */
export function addSettings(command: Command, names: readonly string[] = Object.keys(settings)): Command {
  command.option('--env-file <file>', 'read settings from a file of lines NAME=value')
  command.optionsGroup('Settings, also from the environment (PORT, RATE_LIMIT_MAX, …):')
  for (const name of names) {
    if (NEVER_AN_ARGUMENT.has(name)) continue
    const { description, otherwise, default: fallback } = wordsOf(name)
    const words = description.replaceAll('`', '').replace(/\.$/, '')
    const without = otherwise?.replaceAll('`', '') ?? String(fallback)
    command.addOption(new Option(`${optionOf(name)} <value>`, `${words} (default: ${without})`))
  }
  return command
}

/** Where a setting comes from. */
export type Source = 'option' | 'environment' | 'file' | 'default'

export interface GivenSettings {
  readonly environment: Environment
  sourceOf(name: string): Source
}

/** What the options of a command say, over the environment, over the file. Throws UsageError. */
export function settingsOf(options: Readonly<Record<string, unknown>>, env: Environment): GivenSettings {
  const file = typeof options.envFile === 'string' ? readEnvFile(options.envFile) : {}
  const given: Record<string, string> = {}
  for (const name of Object.keys(settings)) {
    const value = options[attributeOf(name)]
    if (typeof value === 'string') given[name] = value
  }
  for (const name of ['REDIS_URL', 'KEYS_STORE']) {
    if (!/:\/\/[^/]*:[^/@]+@/.test(given[name] ?? '')) continue
    throw new UsageError(
      `${optionOf(name)} holds a password, which everybody on the machine could see: set ${name} instead`,
    )
  }
  const sources = [
    ['option', given],
    ['environment', env],
    ['file', file],
  ] as const
  const sourceOf = (name: string) => sources.find(([, values]) => (values[name] ?? '').trim() !== '')?.[0] ?? 'default'
  const environment: Record<string, string> = {}
  // Also what is not a setting of the service's own, such as OTEL_….
  for (const name of new Set([...Object.keys(settings), ...Object.keys(file), ...Object.keys(env)])) {
    const value = sources.find(([source]) => source === sourceOf(name))?.[1][name]
    if (value !== undefined) environment[name] = value
  }
  return { environment, sourceOf }
}

const attributeOf = (name: string): string => new Option(`${optionOf(name)} <value>`).attributeName()

function readEnvFile(file: string): Environment {
  try {
    return parseEnv(readFileSync(file, 'utf8')) as Environment
  } catch (error) {
    throw new UsageError(`--env-file: '${file}' cannot be read (${(error as NodeJS.ErrnoException).code})`)
  }
}
