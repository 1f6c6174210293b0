/** `serve --check`: the service is built with the settings as for a start, but does not listen. */
import { buildApp, type Service } from '../app.js'
import { type Config, ConfigError, readConfig, settings, wordsOf } from '../config.js'
import { openModels } from '../inference/index.js'
import { readPlans } from '../protection/plans.js'
import { redisAnswersWithin } from '../redis.js'
import { startErrorOf } from '../start-error.js'
import { coloursOf, Failure, type Io, PATIENCE_MS } from './io.js'
import type { GivenSettings } from './settings.js'
import { table } from './table.js'

type Mark = 'ok' | 'warning' | 'wrong'

/** Says all that is wrong at once. Throws Failure where the service would not start. */
export async function check(given: GivenSettings, io: Io): Promise<void> {
  const { stdout, env } = io
  const colours = coloursOf(stdout, env)
  let wrong = false
  const tell = (mark: Mark, what: string, words: string) => {
    const colour = { ok: colours.green, warning: colours.yellow, wrong: colours.red }[mark]
    stdout.write(`${colour(mark.padEnd(7))}  ${what.padEnd(8)}  ${words}\n`)
    if (mark === 'wrong') wrong = true
  }
  const tellWrong = (what: string, error: unknown) => {
    for (const problem of error instanceof ConfigError ? error.problems : [startErrorOf(error)]) {
      tell('wrong', what, problem)
    }
  }

  stdout.write(`${table(stdout, env, ['setting', 'value', 'from'], rowsOf(given))}\n`)
  let config: Config | undefined
  try {
    config = readConfig(given.environment)
    tell('ok', 'settings', 'all are valid')
  } catch (error) {
    tellWrong('settings', error)
  }
  if (config !== undefined) {
    tellLimits(config, tell, tellWrong)
    tellTraces(config, tell)
    try {
      await checkService(config, tell)
    } catch (error) {
      tellWrong('start', error)
    }
  }
  if (wrong) throw new Failure('the service would not start')
  stdout.write('the service would start\n')
}

type Tell = (mark: Mark, what: string, words: string) => void

function tellLimits(config: Config, tell: Tell, tellWrong: (what: string, error: unknown) => void): void {
  const { limitsFile, rateLimit } = config
  if (limitsFile === undefined) {
    tell('ok', 'limits', `${rateLimit.max} predictions in ${rateLimit.windowMs / 1000} s for each address`)
    return
  }
  try {
    const { all, keys, anonymous } = readPlans(limitsFile)
    const required = anonymous === undefined ? ', required' : ''
    tell('ok', 'limits', `plans: ${all.map(({ name }) => name).join(', ')}; API keys: ${keys?.size ?? 0}${required}`)
  } catch (error) {
    tellWrong('limits', error)
  }
}

function tellTraces({ tracing }: Config, tell: Tell): void {
  if (tracing === undefined) return
  if (tracing.exporters.length > 0) tell('ok', 'traces', tracing.exporters.join(', '))
  for (const problem of tracing.problems) tell('warning', 'traces', problem)
}

/** Models and Redis, by what is built of them. The limits file has been looked at before. */
async function checkService(config: Config, tell: Tell): Promise<void> {
  const { app, models } = await build(config)
  try {
    for (const { info } of models.list()) tell('ok', 'model', `${info.name}, version ${info.version}`)
    for (const { name, version, reason } of models.broken) {
      tell('warning', 'model', `${version === undefined ? name : `${name}/${version}`} would not be served: ${reason}`)
    }
    if (config.redis === undefined) tell('ok', 'Redis', 'none: limits are counted in the process')
    else if (await redisAnswersWithin(app.redis, PATIENCE_MS)) tell('ok', 'Redis', 'answers')
    else tell('warning', 'Redis', `does not answer; until it does, ON_STORE_ERROR is '${config.onStoreError}'`)
  } finally {
    await app.close()
  }
}

/** Nothing of it is to be seen from outside: no port, no log, no replica among those that share the limits. */
const build = (config: Config): Promise<Service> =>
  buildApp(
    { ...config, limitsFile: undefined, tracing: undefined, logLevel: 'silent', onStoreError: 'deny' },
    { openModels: log => openModels({ ...config.models, workers: 1, log }) },
  )

function rowsOf({ environment, sourceOf }: GivenSettings): string[][] {
  return Object.keys(settings).map(name => {
    const { secret, otherwise, default: fallback } = wordsOf(name)
    const from = sourceOf(name)
    const value = from === 'default' ? (otherwise ?? String(fallback)) : (environment[name] ?? '')
    return [name, secret && from !== 'default' ? '(not shown)' : value.replaceAll('`', ''), from]
  })
}
