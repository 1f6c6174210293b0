/** The log of the first process: lines as those of the other processes, without what writes these. */
import { hostname } from 'node:os'

const LEVELS = { trace: 10, debug: 20, info: 30, warn: 40, error: 50, fatal: 60, silent: 100 } as const

export type LogLevel = keyof typeof LEVELS
type Write = (details: object, message: string) => void
export type Log = Readonly<Record<'info' | 'warn' | 'error' | 'fatal', Write>>

/** `level`: the least that is written. */
export function openLog(level: LogLevel): Log {
  const base = { pid: process.pid, hostname: hostname() }
  const write =
    (own: LogLevel): Write =>
    (details, msg) => {
      if (LEVELS[own] < LEVELS[level]) return
      process.stdout.write(`${JSON.stringify({ level: LEVELS[own], time: Date.now(), ...base, ...details, msg })}\n`)
    }
  return { info: write('info'), warn: write('warn'), error: write('error'), fatal: write('fatal') }
}
