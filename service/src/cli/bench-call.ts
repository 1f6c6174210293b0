/** `bench-call`: how much the service answers, how fast, and whom it denies. */
import { Command, Option } from 'commander'
import { addQuestion, duration, integer, ownBody, type Question } from './arguments.js'
import { Client, headersFor } from './client.js'
import { silent } from './client-output.js'
import { EXIT, type Io, interruptible, isTerminal } from './io.js'
import type { Load } from './load.js'
import { progress } from './progress.js'
import { STATUS_HEADINGS, STATUS_NUMBERS } from './statuses.js'
import { table } from './table.js'

const EXAMPLES = `
It never waits as it is told, so it shows what a limit does to those who do not: denied requests cost the service
little and the client nothing. With --rate, a request's time counts from when it was due.
It exits with 0 if anything was answered, else 1; 2 if it was called wrongly.

Examples:
  $ npx ml-api-rate-limiter bench-call                                   10 at a time for 10 seconds
  $ npx ml-api-rate-limiter bench-call --model iris --concurrency 64 --duration 30s
  $ npx ml-api-rate-limiter bench-call --rate 200 --duration 1m          200 requests a second, however slow it is
  $ npx ml-api-rate-limiter bench-call --json | jq .statuses

A service that denies nothing: RATE_LIMIT_MAX=1000000000 npx ml-api-rate-limiter serve
`

interface Options extends Question {
  readonly concurrency: number
  readonly duration: number
  readonly rate?: number
  readonly json?: true
}

interface Standing {
  readonly plan: string
  readonly policies: readonly {
    readonly name: string
    readonly unit: string
    readonly limit: number
    readonly remaining: number
    readonly windowSeconds: number
    readonly resetSeconds: number
  }[]
}

export function benchCallCommand(io: Io, end: (code: number) => void): Command {
  const command = new Command('bench-call')
    .summary('put load on a running service, and show the results')
    .description('Sends many predictions at once for a time, and shows their statuses and latencies.')
  return addQuestion(command)
    .addOption(new Option('--concurrency <n>', 'most requests in flight').argParser(integer(1)).default(10))
    .addOption(new Option('--duration <time>', 'how long').argParser(duration).default(10_000, '10s'))
    .addOption(
      new Option('--rate <n>', 'requests per second (default: as fast as the service answers)').argParser(integer(1)),
    )
    .option('--json', 'print the result as one JSON object, for programs')
    .addHelpText('after', EXAMPLES)
    .action(async (options: Options) => end(await interruptible(signal => benchCall(options, io, signal))))
}

async function benchCall(options: Options, io: Io, signal: AbortSignal): Promise<number> {
  const { url, model, apiKey, timeout, concurrency, duration, rate, json } = options
  const { stdout, env } = io
  const client = new Client({ url, model, apiKey, retries: 0, timeoutMs: timeout }, silent, signal)
  const body = (await ownBody(options, io)) ?? (await client.sampleBody())
  // With the pool that only this command needs.
  const { Load } = await import('./load.js')
  const load = new Load({ url, body, apiKey, concurrency, durationMs: duration, rate, timeoutMs: timeout })

  const bar = json ? undefined : progress(stdout, env, Math.ceil(duration / 1000), ' s')
  const tick = setInterval(() => {
    const words = sofarOf(load)
    const seconds = Math.min(Math.ceil(duration / 1000), Math.round(load.seconds))
    bar?.update(seconds, words)
    if (!isTerminal(stdout, env)) bar?.line(`${seconds} s  ${words}`)
  }, 1000)
  try {
    await load.run(signal)
  } finally {
    clearInterval(tick)
    bar?.stop()
  }
  const { statuses, reasons, late, seconds } = load
  const standing = await standingOf(url, apiKey)
  if (json) {
    const result = {
      ...{ url: url.origin, concurrency, rate, seconds: round(seconds), requests: statuses.total, late },
      ...{ answered: statuses.count(200), answeredPerSecond: round(statuses.count(200) / seconds) },
      ...{ statuses: statuses.figures(), reasons: Object.fromEntries(reasons), limits: standing },
    }
    stdout.write(`${JSON.stringify(result)}\n`)
  } else {
    stdout.write(table(stdout, env, STATUS_HEADINGS, statuses.rows(), STATUS_NUMBERS))
    for (const [reason, count] of reasons) stdout.write(`no answer, ${count} times: ${reason}\n`)
    if (late > 0)
      stdout.write(`${late} requests were not begun: the rate needs more --concurrency, or a faster service\n`)
    stdout.write(
      `${statuses.total} requests in ${round(seconds)} s: ${round(statuses.total / seconds)} a second, and ` +
        `${round(statuses.count(200) / seconds)} predictions a second\n`,
    )
    if (standing !== undefined) stdout.write(`\n${quotaTable(standing, io)}`)
  }
  if (signal.aborted) return EXIT.interrupted
  return statuses.count(200) > 0 ? EXIT.done : EXIT.failed
}

const round = (value: number): number => Math.round(value * 10) / 10

function sofarOf({ statuses, seconds }: Load): string {
  const counts = statuses.rows().map(([status, , count]) => `${status}: ${count}`)
  return [`${Math.round(statuses.total / seconds)} a second`, ...counts].join('  ')
}

function quotaTable({ plan, policies }: Standing, { stdout, env }: Io): string {
  const rows = policies.map(({ name, unit, limit, remaining, windowSeconds, resetSeconds }) => [
    ...[plan, name, unit, limit, windowSeconds === 0 ? '' : `${windowSeconds} s`, remaining],
    resetSeconds === 0 ? '' : `${resetSeconds} s`,
  ])
  const headings = ['plan', 'policy', 'unit', 'limit', 'window', 'remaining', 'more in']
  return table(stdout, env, headings, rows, [3, 4, 5, 6])
}

/** What the service says of this caller's quota; undefined where it does not. */
async function standingOf(url: URL, apiKey: string | undefined): Promise<Standing | undefined> {
  try {
    const response = await fetch(new URL('/v1/limits', url), {
      headers: headersFor(undefined, apiKey),
      signal: AbortSignal.timeout(2000),
    })
    return response.ok ? ((await response.json()) as Standing) : undefined
  } catch {
    return undefined
  }
}
