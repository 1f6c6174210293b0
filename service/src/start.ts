/** Starts the service: as this process, or as several that it starts. */
import type { Environment } from './config.js'
import type { Hangups } from './hangup.js'

/** Resolves when the service listens, or its processes are on their way. What keeps it from that ends the process with 1. */
export async function start(environment: Environment, hangups: Hangups): Promise<void> {
  const isOne = ['', '1'].includes((environment.WEB_PROCESSES ?? '').trim())
  // What most do not need is not loaded: the first of several processes serves nothing itself.
  const { serve } = isOne ? await import('./serve.js') : await import('./first-process.js')
  await serve(environment, hangups)
}
