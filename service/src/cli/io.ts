/** What a command reads from and writes to, so that a test can stand in for a terminal. */
import { createColors } from 'picocolors'

export type Output = NodeJS.WritableStream & { readonly isTTY?: boolean; readonly columns?: number }
export type Input = NodeJS.ReadStream | (NodeJS.ReadableStream & { readonly isTTY?: boolean })

export interface Io {
  readonly stdin: Input
  readonly stdout: Output
  readonly stderr: Output
  readonly env: Readonly<Record<string, string | undefined>>
}

/** How long Redis may take to answer, in milliseconds: nobody waits behind a command. */
export const PATIENCE_MS = 3000

export const EXIT = { done: 0, failed: 1, wrongUsage: 2, interrupted: 130 } as const

/** What was asked for cannot be: said in one line, and the command ends with 2. */
export class UsageError extends Error {}
/** What was asked for was tried and failed: said in one line, and the command ends with 1. */
export class Failure extends Error {}

/** Whether the output may move: a cursor, a bar. */
export const isTerminal = (output: Output, env: Io['env']): boolean => output.isTTY === true && env.TERM !== 'dumb'

/** Colours on a terminal, unless NO_COLOR (https://no-color.org) is set; FORCE_COLOR has them elsewhere too. */
export const hasColours = (output: Output, env: Io['env']): boolean =>
  !env.NO_COLOR && (isTerminal(output, env) || (env.FORCE_COLOR !== undefined && env.FORCE_COLOR !== '0'))

export const coloursOf = (output: Output, env: Io['env']) => createColors(hasColours(output, env))

/** All that is piped in. */
export async function readAll(input: Input): Promise<string> {
  const chunks: Buffer[] = []
  for await (const chunk of input) chunks.push(Buffer.from(chunk))
  return Buffer.concat(chunks).toString('utf8')
}

/** Aborted by Ctrl-C or SIGTERM while `work` runs; a second one ends the process. */
export async function interruptible<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interruption = new AbortController()
  const interrupt = () => interruption.abort(new Error('interrupted'))
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  try {
    return await work(interruption.signal)
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt)
  }
}
