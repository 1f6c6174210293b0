/**
 * The service as several processes: this one starts those that serve, holds the counts of the limits where there is no
 * Redis, and ends with them. It serves nothing itself, so that it has time for all of them.
 */
import cluster from 'node:cluster'
import { type Config, type Environment, readConfig } from './config.js'
import type { Hangups } from './hangup.js'
import { MetricsOfAll } from './metrics/of-all.js'
import { openLog } from './processes/log.js'
import { type Answers, valuesOf } from './processes/messages.js'
import { placeIn } from './processes/peers.js'
import { Supervisor } from './processes/supervisor.js'
import { startErrorOf } from './start-error.js'
import { LAST_RUNS_MS, ONE_SIGNAL_MS } from './stop.js'

/** How long the end of a process may take once its runs are over. */
const LAST_MOMENTS_MS = 1000

/** As `serve` of serve.ts. Where this process is one of those that serve, or the only one, it is just that. */
export async function serve(environment: Environment, hangups: Hangups): Promise<void> {
  let config: Config
  try {
    config = readConfig(environment)
  } catch (error) {
    return fail(startErrorOf(error))
  }
  const { webProcesses } = config
  if (webProcesses === 1 || placeIn(process.env) !== undefined) {
    await (await import('./serve.js')).serve(environment, hangups)
  } else if (!cluster.isPrimary) {
    fail(
      'WEB_PROCESSES cannot be used in a process of another node:cluster, such as that of a process manager: ' +
        'leave it out, or start the service as a program of its own',
    )
  } else await supervise(config, hangups)
}

function fail(message: string): void {
  process.stderr.write(`ml-api-rate-limiter cannot start: ${message}\n`)
  process.exit(1)
}

async function supervise(config: Config, hangups: Hangups): Promise<void> {
  const log = openLog(config.logLevel)
  const { webProcesses: count } = config
  const metrics = new MetricsOfAll()
  const unloaded = new Set<string>()
  const supervisor: Supervisor = new Supervisor({
    count,
    log,
    counts: config.redis === undefined ? await openCounts((notice, from) => tellFreed(notice, from)) : undefined,
    completed: (question, answers, pids) => {
      if (question !== 'metrics') return answers
      const { size, lost } = supervisor
      return { ...answers, answers: [{ value: metrics.texts(answers as Answers<string>, pids, size, lost) }] }
    },
    // Models that were unloaded by hand are so in a process that takes the place of another, too.
    asked: (question, data) => {
      if (question !== 'load') return
      const { name, loaded } = data as { readonly name: string; readonly loaded: boolean }
      if (loaded) unloaded.delete(name)
      else unloaded.add(name)
    },
    catchUp: () => [...unloaded].map(name => ['load', { name, loaded: false }] as const),
    ended: pid => metrics.ended(pid),
    listening: (main, ops) => {
      if (ops !== undefined) log.info({}, `health, metrics and admin on ${ops}`)
      log.info({ processes: count }, `listening on ${main}`)
    },
    ready: models => {
      log.info({ models, processes: count }, 'ready: all models are loaded')
      hangups.serve(() => void reload())
    },
    failed: fail,
  })
  const tellFreed = (notice: unknown, from: number) => supervisor.tellAll({ kind: 'freed', notice }, from)
  const reload = async () => {
    const done = valuesOf(await supervisor.ask('reload'))
    log.info({ processes: done.length }, 'all processes were told to read models and limits again')
  }
  if (config.redis === undefined) {
    log.info({}, 'REDIS_URL is not set: limits are counted in the first process, for all of this service')
  }
  endWell(supervisor, config, log)
  supervisor.start()
}

/** Loaded only where there is no Redis. */
async function openCounts(onFreed: (notice: unknown, from: number) => void) {
  const { SharedCounts } = await import('ml-api-rate-limiter')
  return new SharedCounts({ onFreed: (notice, from) => onFreed(notice, Number(from)) })
}

/** The first signal ends all processes well, a second one at once. */
function endWell(supervisor: Supervisor, { stopTimeoutMs }: Config, log: ReturnType<typeof openLog>): void {
  let stoppingSince: number | undefined
  const endNow = (reason: string) => {
    log.fatal({}, `ending at once: ${reason}`)
    supervisor.tellAll({ kind: 'end', reason })
    setTimeout(() => {
      supervisor.kill()
      process.exit(1)
    }, LAST_RUNS_MS + LAST_MOMENTS_MS)
  }
  const stop = async (exitCode: number) => {
    if (stoppingSince !== undefined) return
    stoppingSince = performance.now()
    // Each process ends itself when its time is over; this is for one that does not.
    const mostMs = stopTimeoutMs + LAST_RUNS_MS + LAST_MOMENTS_MS
    setTimeout(() => endNow(`not done after ${mostMs} ms`), mostMs).unref()
    const worst = await supervisor.stop()
    log.info({}, 'stopped')
    process.exit(Math.max(exitCode, worst))
  }
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    process.on(signal, () => {
      if (stoppingSince === undefined) {
        log.info({ signal }, 'stopping')
        void stop(0)
      } else if (performance.now() - stoppingSince > ONE_SIGNAL_MS) endNow(`second signal (${signal})`)
    })
  }
  const failed = (error: unknown): void => {
    const { message, stack } = error as Error
    log.fatal({ err: { message, stack } }, 'an error that nothing caught')
    void stop(1)
  }
  process.on('uncaughtException', failed)
  process.on('unhandledRejection', failed)
}
