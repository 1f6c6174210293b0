import { ConfigError } from './config.js'
import { InferenceError } from './inference/errors.js'

/** For those who start the service: one message, and no stack unless it is our fault. */
export function startErrorOf(error: unknown): string {
  if (error instanceof ConfigError || error instanceof InferenceError) return error.message
  const { code, syscall, message, stack } = error as NodeJS.ErrnoException
  // `bind`: of one of several processes, for which the first one listens.
  const isListening = syscall === 'listen' || syscall === 'bind'
  if (isListening && code === 'EADDRINUSE') return `${message}; set PORT or OPS_PORT to another one`
  if (syscall !== undefined) return message
  return stack ?? String(error)
}
