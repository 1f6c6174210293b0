/** `call`: predictions one after the other, by a client that waits as it is told. */
import { setTimeout as delay } from 'node:timers/promises'
import { Command, Option } from 'commander'
import { addQuestion, integer, ownBody, type Question } from './arguments.js'
import { Client } from './client.js'
import { printer } from './client-output.js'
import { EXIT, type Io, interruptible } from './io.js'

const EXAMPLES = `
After 429 it waits exactly the seconds of Retry-After, after a refused or dropped connection or a 5xx a little longer
each time. It exits with 0 if every prediction was answered with 200 in the end, else 1; 2 if it was called wrongly.

Examples:
  $ npx ml-api-rate-limiter call                                          the model's own sample, 20 times
  $ npx ml-api-rate-limiter call --model iris --requests 5
  $ npx ml-api-rate-limiter call --model iris --features '[5.1,3.5,1.4,0.2]'
  $ npx ml-api-rate-limiter call --model iris --features @rows.json       rows in a file, one prediction each
  $ cat body.json | npx ml-api-rate-limiter call --body - --json          for programs: a JSON object a line
  $ ML_API_KEY=… npx ml-api-rate-limiter call                             with an API key that no history keeps
`

interface Options extends Question {
  readonly requests?: number
  readonly retries: number
  readonly interval: number
  readonly json?: true
}

export function callCommand(io: Io, end: (code: number) => void): Command {
  const command = new Command('call')
    .summary('ask a running service for predictions, and wait as long as it says')
    .description('Asks a running service for predictions, one after the other, and waits as Retry-After says.')
  return addQuestion(command)
    .addOption(
      new Option('--requests <n>', 'predictions to ask for (default: 20, or 1 with your own input)').argParser(
        integer(1),
      ),
    )
    .addOption(
      new Option('--retries <n>', 'retries of one prediction before it counts as failed')
        .argParser(integer(0))
        .default(10),
    )
    .addOption(new Option('--interval <ms>', 'pause between predictions').argParser(integer(0)).default(0))
    .option('--json', 'print one JSON object per line, for programs')
    .addHelpText('after', EXAMPLES)
    .action(async (options: Options) => {
      const body = await ownBody(options, io)
      const requests = options.requests ?? (body === undefined ? 20 : 1)
      end(await interruptible(signal => call(options, requests, body, io, signal)))
    })
}

async function call(
  options: Options,
  requests: number,
  own: string | undefined,
  io: Io,
  signal: AbortSignal,
): Promise<number> {
  const { url, model, apiKey, retries, timeout, interval } = options
  const out = printer(io, options.json === true, requests)
  const client = new Client({ url, model, apiKey, retries, timeoutMs: timeout }, out, signal)
  const since = performance.now()
  let answered = 0
  let failed = 0
  try {
    const body = own ?? (await client.sampleBody())
    for (let number = 1; number <= requests; number++) {
      if (await client.predict(number, body)) answered++
      else failed++
      if (interval > 0 && number < requests) await delay(interval, undefined, { signal })
    }
  } catch (error) {
    if (!signal.aborted) throw error
  } finally {
    out.stop()
  }
  out.print({
    event: 'summary',
    requests,
    answered,
    failed,
    tries: client.tries,
    waitedSeconds: client.waitedSeconds,
    seconds: Math.round(performance.now() - since) / 1000,
  })
  if (signal.aborted) return EXIT.interrupted
  return answered === requests ? EXIT.done : EXIT.failed
}
