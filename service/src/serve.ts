/** The service as this process: settings in, then it runs until a signal ends it. */
import { buildApp, type Service } from './app.js'
import { type Config, ConfigError, type Environment, readConfig } from './config.js'
import { Hangups } from './hangup.js'
import { InferenceError } from './inference/errors.js'
import { openModels } from './inference/index.js'
import { stopWell } from './stop.js'

/** Resolves when the service listens. What keeps it from that is said on stderr, and ends the process with 1. */
export async function serve(environment: Environment, hangups = new Hangups()): Promise<void> {
  try {
    const config = readConfig(environment)
    const service = await start(config)
    stopWell(service, config)
    hangups.serve(() => {
      service.models.reload().catch(error => service.app.log.error({ err: error }, 'the models were not reloaded'))
      service.limits.reload()
    })
  } catch (error) {
    process.stderr.write(`ml-api-rate-limiter cannot start: ${startErrorOf(error)}\n`)
    process.exit(1)
  }
}

/** For those who start the service: one message, and no stack unless it is our fault. */
export function startErrorOf(error: unknown): string {
  if (error instanceof ConfigError || error instanceof InferenceError) return error.message
  const { code, syscall, message, stack } = error as NodeJS.ErrnoException
  if (syscall === 'listen' && code === 'EADDRINUSE') return `${message}; set PORT to another one`
  if (syscall !== undefined) return message
  return stack ?? String(error)
}

async function start(config: Config): Promise<Service> {
  const { models } = config
  const service = await buildApp(config, { openModels: (log, onEvent) => openModels({ ...models, log, onEvent }) })
  try {
    await service.app.listen({
      host: config.host,
      port: config.port,
      listenTextResolver: address => `listening on ${address}`,
    })
  } catch (error) {
    await service.app.close()
    throw error
  }
  return service
}
