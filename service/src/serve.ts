/** The service as this process: settings in, then it runs until a signal ends it. */
import { buildApp, type Service } from './app.js'
import { type Config, ConfigError, type Environment, readConfig } from './config.js'
import { Hangups } from './hangup.js'
import { InferenceError } from './inference/errors.js'
import { beginModels, type Repository } from './inference/index.js'
import { stopWell } from './stop.js'

/** Resolves when the service listens. What keeps it from that is said on stderr, and ends the process with 1. */
export async function serve(environment: Environment, hangups = new Hangups()): Promise<void> {
  try {
    const config = readConfig(environment)
    const service = await start(config)
    const { app, models, opened } = service
    const stopping = stopWell(service, config)
    opened.then(
      () => app.log.info({ models: models.list().map(({ info }) => info.name) }, 'ready: all models are loaded'),
      async error => {
        if (stopping()) return
        process.stderr.write(`ml-api-rate-limiter cannot start: ${startErrorOf(error)}\n`)
        await app.close()
        process.exit(1)
      },
    )
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
  if (syscall === 'listen' && code === 'EADDRINUSE') return `${message}; set PORT or OPS_PORT to another one`
  if (syscall !== undefined) return message
  return stack ?? String(error)
}

interface Started extends Service {
  /** Rejects where no model can be served. */
  readonly opened: Promise<void>
}

/** Listens at once: each model is served as soon as it is loaded. */
async function start(config: Config): Promise<Started> {
  let repository: Repository | undefined
  const service = await buildApp(config, {
    openModels: async (log, onEvent) => {
      repository = beginModels({ ...config.models, log, onEvent })
      await repository.scanned
      return repository
    },
  })
  try {
    const { host, port, opsPort } = config
    // First, so that whoever finds the service listening can watch it.
    if (opsPort !== undefined) {
      const address = await service.ops.listen(host, opsPort)
      service.app.log.info(`health, metrics and admin on ${address}`)
    }
    await service.app.listen({ host, port, listenTextResolver: address => `listening on ${address}` })
  } catch (error) {
    await service.app.close()
    throw error
  }
  return { ...service, opened: (repository as Repository).opened }
}
