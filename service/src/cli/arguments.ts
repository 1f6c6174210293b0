/** What options take, and what is asked of the service: for every command that asks it. */
import { readFile } from 'node:fs/promises'
import { type Command, InvalidArgumentError, Option } from 'commander'
import { durationMs } from '../config.js'
import { type Io, readAll, UsageError } from './io.js'

export const integer =
  (minimum: number) =>
  (text: string): number => {
    if (/^\d{1,9}$/.test(text) && Number(text) >= minimum) return Number(text)
    throw new InvalidArgumentError(`It takes an integer, ${minimum} or more.`)
  }

/** In words, or milliseconds; resolves to milliseconds. */
export function duration(text: string): number {
  const ms = durationMs(text)
  if (ms !== undefined) return ms
  throw new InvalidArgumentError('It takes a duration such as 10s or 1 minute, or milliseconds.')
}

function httpUrl(text: string): URL {
  if (/^https?:\/\//.test(text) && URL.canParse(text)) return new URL(text)
  throw new InvalidArgumentError('It takes http://host:port or https://….')
}

/** Where the service is, and what it is asked. */
export interface Question {
  readonly url: URL
  readonly model?: string
  readonly features?: string
  readonly body?: string
  readonly apiKey?: string
  readonly timeout: number
}

export function addQuestion(command: Command): Command {
  return command
    .addOption(new Option('--url <url>', 'URL of the service').argParser(httpUrl).default(httpUrl(HERE), HERE))
    .option('--model <name>', 'the model to ask (default: the first one of the service)')
    .option('--features <json>', 'your own row or rows: JSON, @FILE, or - for standard input')
    .option('--body <json>', 'your own whole body: JSON, @FILE, or - for standard input')
    .addOption(new Option('--api-key <key>', 'sent as x-api-key').env('ML_API_KEY'))
    .addOption(new Option('--timeout <ms>', 'how long one try may take').argParser(integer(1)).default(10_000, '10000'))
}

const HERE = 'http://localhost:3000'

/** The body that the options give; undefined: the model's own sample. Throws UsageError. */
export async function ownBody({ features, body, model }: Question, io: Io): Promise<string | undefined> {
  if (features !== undefined && body !== undefined)
    throw new UsageError('--features and --body cannot be combined: remove one of them')
  if (body !== undefined) return textOf('--body', body, io)
  if (features === undefined) return undefined
  const text = await textOf('--features', features, io)
  try {
    return JSON.stringify({ ...(model === undefined ? {} : { model }), features: JSON.parse(text) as unknown })
  } catch {
    throw new UsageError('--features takes a row such as [5.1,3.5,1.4,0.2], or a list of rows, as JSON')
  }
}

async function textOf(option: string, given: string, { stdin }: Io): Promise<string> {
  if (given === '-') return readAll(stdin)
  if (!given.startsWith('@')) return given
  try {
    return await readFile(given.slice(1), 'utf8')
  } catch {
    throw new UsageError(`${option}: the file '${given.slice(1)}' cannot be read`)
  }
}
