/** The service as this process: settings in, then it runs until a signal ends it. */
import { buildApp, type Service } from './app.js'
import { type Config, type Environment, readConfig } from './config.js'
import { Hangups } from './hangup.js'
import { addressesOf } from './http/listeners.js'
import { beginModels, type Repository } from './inference/index.js'
import { usableCores } from './inference/workers/cores.js'
import { Peers, partOf, placeIn } from './processes/peers.js'
import { warnOfUnknownModels } from './protection/models-meant.js'
import { startErrorOf } from './start-error.js'
import { stopWell } from './stop.js'
import { warmUp } from './warm.js'

/** Resolves when the service listens. What keeps it from that is said on stderr, and ends the process with 1. */
export async function serve(environment: Environment, hangups = new Hangups()): Promise<void> {
  const place = placeIn(process.env)
  // Where this is one of several processes, the first of them is told, and says it once.
  const peers = place && new Peers()
  const fail = (error: unknown): Promise<never> => {
    const message = startErrorOf(error)
    if (peers === undefined) {
      process.stderr.write(`ml-api-rate-limiter cannot start: ${message}\n`)
      process.exit(1)
    }
    return peers.fail(message)
  }
  try {
    const whole = readConfig(environment)
    const config = place === undefined ? whole : partOfConfig(whole, place)
    let isWarming = true
    const service = await start(config, peers, () => isWarming)
    const { app, models, opened } = service
    const { isStopping } = stopWell(service, config, peers)
    // While models load, this thread has little else to do.
    const warmed = warmUp(config, isStopping).then(() => {
      isWarming = false
    })
    Promise.all([opened, warmed]).then(
      () => {
        const names = models.list().map(({ info }) => info.name)
        if (peers === undefined) app.log.info({ models: names }, 'ready: all models are loaded')
        else peers.tell({ kind: 'ready', models: names })
        if (place === undefined || place.index === 0) warnOfUnknownModels(app.log, service.limits.plans, models)
      },
      async error => {
        if (isStopping()) return
        await app.close()
        await fail(error)
      },
    )
    // Several processes are told by the first one.
    if (peers === undefined) {
      hangups.serve(() => {
        service.limits.reload()
        models.reload().then(
          () => warnOfUnknownModels(app.log, service.limits.plans, models),
          error => app.log.error({ err: error }, 'the models were not reloaded'),
        )
      })
    }
  } catch (error) {
    await fail(error)
  }
}

/**
 * How long the first of several processes may take to count (ms). Nothing passes without it, so that a busy machine never
 * lets more pass than a limit allows.
 */
const COUNTS_TIMEOUT_MS = 5000

/** What one of several processes has of what all share. */
function partOfConfig(config: Config, place: { readonly index: number; readonly count: number }): Config {
  const { maxConnections, models } = config
  return {
    ...config,
    ...(config.redis === undefined ? { onStoreError: 'deny', storeTimeoutMs: COUNTS_TIMEOUT_MS } : {}),
    maxConnections: maxConnections === undefined ? undefined : partOf(maxConnections, place),
    // Where there are more processes than cores, each has one.
    models: { ...models, workers: Math.max(1, partOf(models.workers ?? usableCores(), place)) },
  }
}

interface Started extends Service {
  /** Rejects where no model can be served. */
  readonly opened: Promise<void>
}

/** Listens at once: each model is served as soon as it is loaded. */
async function start(config: Config, peers: Peers | undefined, isWarming: () => boolean): Promise<Started> {
  let repository: Repository | undefined
  const service = await buildApp(config, {
    openModels: async (log, onEvent) => {
      repository = beginModels({ ...config.models, log, onEvent })
      await repository.scanned
      return repository
    },
    peers,
    isWarming,
  })
  const { app } = service
  try {
    const { host, port, opsPort } = config
    // First, so that whoever finds the service listening can watch it.
    const addresses = await addressesOf(host)
    const ops = opsPort === undefined ? undefined : await service.ops.listen(addresses, opsPort)
    if (peers === undefined && ops !== undefined) app.log.info(`health, metrics and admin on ${ops}`)
    const said = (address: string) =>
      peers === undefined ? `listening on ${address}` : `this process takes part on ${address}`
    const main = await service.listen(addresses, port, said)
    peers?.tell({ kind: 'listening', main, ops })
  } catch (error) {
    await app.close()
    throw error
  }
  return { ...service, opened: (repository as Repository).opened }
}
