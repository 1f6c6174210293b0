#!/usr/bin/env node
/** The process: settings from the environment, then the service until a signal ends it. */
import { buildApp, type Service } from './app.js'
import { type Config, ConfigError, readConfig } from './config.js'
import { InferenceError } from './inference/errors.js'
import { openModels } from './inference/repository.js'
import { stopWell } from './stop.js'

/** For those who start the service: one message, and no stack unless it is our fault. */
function fail(error: unknown): never {
  process.stderr.write(`ml-api-rate-limiter cannot start: ${messageOf(error)}\n`)
  process.exit(1)
}

function messageOf(error: unknown): string {
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

try {
  const config = readConfig(process.env)
  const service = await start(config)
  stopWell(service, config)
  process.on('SIGHUP', () => {
    service.models.reload().catch(error => service.app.log.error({ err: error }, 'the models were not reloaded'))
    service.limits.reload()
  })
} catch (error) {
  fail(error)
}
