/** `serve`: the service as this process; `--check`: whether it would start. */
import { fileURLToPath } from 'node:url'
import { Command } from 'commander'
import { type Io, UsageError } from './io.js'
import { addSettings, SETTINGS_HELP, settingsOf } from './settings.js'

const EXAMPLES = `
${SETTINGS_HELP}
ADMIN_TOKEN has no option, nor has a password for Redis: everybody on the machine can see the arguments of a process.

Examples:
  $ npx ml-api-rate-limiter serve                                       the models in ./models on port 3000
  $ npx ml-api-rate-limiter serve my-models                             those of another folder
  $ npx ml-api-rate-limiter serve --demo                                two small models that come along
  $ npx ml-api-rate-limiter serve --rate-limit-max 3 --rate-limit-window 10s
  $ REDIS_URL=redis://localhost npx ml-api-rate-limiter serve --port 3001
  $ npx ml-api-rate-limiter serve --check --env-file production.env     say what is wrong, start nothing

--check reads the settings and the limits file, loads and runs every model, asks Redis, and exits with 0 if the service
would start, else 1. What the service would start without, such as Redis, is a warning.
`

/** The models that come with the package, where it was built or installed. */
const DEMO = fileURLToPath(new URL('../../demo', import.meta.url))

export function serveCommand(io: Io): Command {
  const command = new Command('serve')
    .summary('start the service')
    .description('Starts the service: predictions over HTTP, behind limits. Ctrl-C or SIGTERM stops it gracefully.')
    .argument('[models]', 'folder with <name>/<version>/model.onnx, like --models-dir')
    .option('--demo', 'serve two models that come with the program: iris and digits')
    .option('--check', 'check settings, limits file, models and Redis, report what is wrong, and start nothing')
  return addSettings(command)
    .addHelpText('after', EXAMPLES)
    .action(async (folder: string | undefined, options: Readonly<Record<string, unknown>>) => {
      const given = settingsOf({ ...options, ...modelsOf(folder, options) }, io.env)
      // Loaded by who needs them: the other commands begin sooner.
      if (options.check) await (await import('./check.js')).check(given, io)
      else {
        const hangups = new (await import('../hangup.js')).Hangups()
        // Before anything else is loaded: the packages of OpenTelemetry read their settings from there.
        Object.assign(process.env, given.environment)
        await (await import('../start.js')).start(given.environment, hangups)
      }
    })
}

/** Where the models are, if a folder, `--models-dir` or `--demo` says so: one of them at most. */
function modelsOf(folder: string | undefined, { demo, modelsDir }: Readonly<Record<string, unknown>>): object {
  const given = [folder, modelsDir, demo ? DEMO : undefined].filter(each => each !== undefined)
  if (given.length > 1)
    throw new UsageError('a folder of models, --models-dir and --demo cannot be combined: give one of them')
  return given.length === 0 ? {} : { modelsDir: given[0] }
}
