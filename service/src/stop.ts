/** The end of the process: asked for by a signal, or forced by a fault. Requests that were taken are answered first. */
import { setTimeout as delay } from 'node:timers/promises'
import type { Service } from './app.js'
import type { Config } from './config.js'
import type { Peers } from './processes/peers.js'

export interface Stop {
  /** Whether a stop was asked for. */
  isStopping(): boolean
}

/** npm passes on a Ctrl-C that the terminal has sent to us as well: signals this close together are one. */
export const ONE_SIGNAL_MS = 300

/** How long an end at once waits for the runs that have begun. */
export const LAST_RUNS_MS = 1500

/**
 * On SIGTERM, SIGINT, or an uncaught error: readiness goes off, then the server takes no more connections,
 * then what is in flight ends, then the process. A second signal, or the end of the time for it, ends it at once. Of
 * several processes each does so, also when the first one says it.
 */
export function stopWell({ app, models, announceStop }: Service, config: Config, peers?: Pick<Peers, 'onStop'>): Stop {
  let stoppingSince: number | undefined
  let isEnding = false

  const stop = async (exitCode: number): Promise<void> => {
    if (stoppingSince !== undefined) return
    stoppingSince = performance.now()
    announceStop()
    setTimeout(() => void endNow(`not done after ${config.stopTimeoutMs} ms`), config.stopTimeoutMs).unref()
    try {
      await delay(config.stopDelayMs)
      await app.close()
      app.log.info('stopped')
      process.exit(exitCode)
    } catch (error) {
      app.log.error({ err: error }, 'the stop failed')
      void endNow('the stop failed')
    }
  }

  const endNow = async (reason: string): Promise<void> => {
    if (isEnding) return
    isEnding = true
    app.log.fatal(`ending at once: ${reason}`)
    // To exit while a worker is inside a run would abort with a core dump. Closed connections empty the queue, so only
    // the runs that have begun are waited for; one that does not end leaves nothing but a signal that cannot be caught.
    setTimeout(() => process.kill(process.pid, 'SIGKILL'), LAST_RUNS_MS)
    app.server.closeAllConnections()
    await models.close()
    process.exit(1)
  }

  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (stoppingSince === undefined) {
        app.log.info({ signal }, 'stopping')
        void stop(0)
      } else if (performance.now() - stoppingSince > ONE_SIGNAL_MS) {
        void endNow(`second signal (${signal})`)
      }
    })
  }
  const failed = (error: unknown): void => {
    app.log.fatal({ err: error }, 'uncaught error')
    void stop(1)
  }
  process.on('uncaughtException', failed)
  process.on('unhandledRejection', failed)
  peers?.onStop(
    () => void stop(0),
    reason => void endNow(reason),
  )
  return { isStopping: () => stoppingSince !== undefined }
}
