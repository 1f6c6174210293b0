/** Runs the command line in this process, on streams that may stand in for a terminal. */
import { PassThrough, Readable } from 'node:stream'
import { main } from '../../service/src/cli/main.js'

export interface CliOptions {
  /** Whether the output is a terminal. */
  readonly terminal?: boolean
  readonly env?: Readonly<Record<string, string | undefined>>
  /** What is piped in. */
  readonly input?: string
}

export interface CliResult {
  readonly code: number
  readonly stdout: string
  readonly stderr: string
}

export async function cli(args: readonly string[], { terminal = false, env = {}, input = '' }: CliOptions = {}) {
  const stdin = Readable.from([input])
  const stdout = output(terminal)
  const stderr = output(terminal)
  const code = await main(args, { stdin, stdout: stdout.stream, stderr: stderr.stream, env })
  return { code, stdout: stdout.text(), stderr: stderr.text() } satisfies CliResult
}

function output(isTTY: boolean) {
  const stream = Object.assign(new PassThrough(), { isTTY, columns: 120, rows: 40 })
  let text = ''
  stream.on('data', data => (text += data))
  return { stream, text: () => text }
}
