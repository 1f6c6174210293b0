#!/usr/bin/env node
/** A client that obeys: asks for predictions one after the other, waits as it is told, and gets all of them answered. */
import { readFile } from 'node:fs/promises'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { type ClientEvent, type Printer, printer } from './client-output.js'

const HELP = `Asks a running service for predictions, one after the other, and obeys its limits.

  npm run client -- [options]

  --url URL          where the service is (default http://localhost:3000)
  --requests N       predictions to ask for (default 20)
  --model NAME       the model to ask (default: the first that the service names)
  --body JSON        what to send; @FILE reads it from a file (default: the model's own sample)
  --api-key KEY      sent as x-api-key
  --retries N        how often one prediction is tried again before it counts as failed (default 10)
  --timeout MS       how long one try may take (default 10000)
  --interval MS      pause between predictions (default 0)
  --json             one JSON object a line, for programs
  --help             this text

After 429 it waits exactly the seconds of Retry-After, after a refused or dropped connection or a 5xx a little longer
each time. It exits with 0 if every prediction was answered with 200 in the end, else 1; 2 if the options are wrong.

  npm run client -- --model iris --requests 10
  npm run client -- --body '{"model":"iris","features":[[5.1,3.5,1.4,0.2],[6.2,2.8,4.8,1.8]]}' --json
`

const EXIT = { allAnswered: 0, someFailed: 1, wrongOptions: 2, interrupted: 130 } as const
const FIRST_BACKOFF_SECONDS = 0.5
const LAST_BACKOFF_SECONDS = 5

interface Options {
  readonly url: URL
  readonly requests: number
  readonly model: string | undefined
  readonly body: string | undefined
  readonly apiKey: string | undefined
  readonly retries: number
  readonly timeoutMs: number
  readonly intervalMs: number
  readonly json: boolean
}

class WrongOption extends Error {}
/** The service gives no body to send. */
class NoSample extends Error {}

async function readOptions(args: string[]): Promise<Options | 'help'> {
  const text = { type: 'string' } as const
  const { values } = parseArgs({
    args,
    options: {
      url: { ...text, default: 'http://localhost:3000' },
      requests: { ...text, default: '20' },
      model: text,
      body: text,
      'api-key': text,
      retries: { ...text, default: '10' },
      timeout: { ...text, default: '10000' },
      interval: { ...text, default: '0' },
      json: { type: 'boolean', default: false },
      help: { type: 'boolean', short: 'h', default: false },
    },
  })
  if (values.help) return 'help'
  if (!/^https?:\/\//.test(values.url) || !URL.canParse(values.url)) {
    throw new WrongOption(`--url is '${values.url}'; it takes http://host:port or https://…`)
  }
  return {
    url: new URL(values.url),
    requests: integer('requests', values.requests, 1),
    model: values.model,
    body: values.body === undefined ? undefined : await readBody(values.body),
    apiKey: values['api-key'],
    retries: integer('retries', values.retries, 0),
    timeoutMs: integer('timeout', values.timeout, 1),
    intervalMs: integer('interval', values.interval, 0),
    json: values.json,
  }
}

function integer(name: string, text: string, minimum: number): number {
  if (/^\d{1,9}$/.test(text) && Number(text) >= minimum) return Number(text)
  throw new WrongOption(`--${name} is '${text}'; it takes an integer, ${minimum} or more`)
}

async function readBody(given: string): Promise<string> {
  if (!given.startsWith('@')) return given
  try {
    return await readFile(given.slice(1), 'utf8')
  } catch {
    throw new WrongOption(`--body: the file '${given.slice(1)}' cannot be read`)
  }
}

/** One answer of the service, or none: `status` 0 with the reason. */
interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly ms: number
  readonly failure?: string
}

class Client {
  readonly #options: Options
  readonly #printer: Printer
  readonly #interrupted: AbortSignal
  waitedSeconds = 0
  tries = 0

  constructor(options: Options, printer: Printer, interrupted: AbortSignal) {
    this.#options = options
    this.#printer = printer
    this.#interrupted = interrupted
  }

  /** The first model's own sample, or that of the model asked for. */
  async sampleBody(): Promise<string> {
    const { model, url } = this.#options
    const path = model === undefined ? '/v1/models' : `/v1/models/${encodeURIComponent(model)}`
    const { status, text } = await this.#untilAnswered(0, path)
    if (status === 0) throw new NoSample(`${url.origin} does not answer`)
    if (status !== 200) throw new NoSample(`${url.origin}${path} answers ${status}: ${detailOf(text)}`)
    const found = JSON.parse(text) as { sample?: object; models?: readonly { sample: object }[] }
    const sample = model === undefined ? found.models?.[0]?.sample : found.sample
    if (sample === undefined) throw new NoSample(`${url.origin} serves no models; say what to send with --body`)
    return JSON.stringify(sample)
  }

  /** One prediction, tried again until it is answered for good. Resolves with whether that was 200. */
  async predict(number: number, body: string): Promise<boolean> {
    return (await this.#untilAnswered(number, '/v1/predict', body)).status === 200
  }

  async #untilAnswered(number: number, path: string, body?: string): Promise<Answer> {
    for (let attempt = 0; ; attempt++) {
      const answer = await this.#ask(path, body)
      if (this.#interrupted.aborted) throw this.#interrupted.reason
      this.tries++
      const again = isTemporary(answer.status) && attempt < this.#options.retries
      const seconds = again ? secondsToWait(answer, attempt) : undefined
      if (number > 0 || answer.status !== 200) this.#printer.print(eventOf(number, attempt, answer, seconds))
      if (seconds === undefined) return answer
      await this.#printer.countDown(seconds, this.#interrupted)
      this.waitedSeconds += seconds
    }
  }

  async #ask(path: string, body: string | undefined): Promise<Answer> {
    const { url, apiKey, timeoutMs } = this.#options
    const since = performance.now()
    try {
      const response = await fetch(new URL(path, url), {
        method: body === undefined ? 'GET' : 'POST',
        headers: {
          accept: 'application/json, application/problem+json',
          ...(body === undefined ? {} : { 'content-type': 'application/json' }),
          ...(apiKey === undefined ? {} : { 'x-api-key': apiKey }),
        },
        ...(body === undefined ? {} : { body }),
        signal: AbortSignal.any([AbortSignal.timeout(timeoutMs), this.#interrupted]),
      })
      const { status, headers } = response
      return { status, headers, text: await response.text(), ms: performance.now() - since }
    } catch (error) {
      return { status: 0, headers: new Headers(), text: '', ms: performance.now() - since, failure: reasonOf(error) }
    }
  }
}

/** No answer, a quota or a server that may do better next time. */
const isTemporary = (status: number): boolean => status === 0 || status === 429 || status >= 500

/** As the service says, exactly; where it says nothing, longer each time. */
function secondsToWait({ headers }: Answer, attempt: number): number {
  const told = headers.get('retry-after')
  if (told !== null && /^\d{1,9}$/.test(told)) return Number(told)
  const date = told === null ? Number.NaN : Date.parse(told)
  if (!Number.isNaN(date)) return Math.max(0, Math.ceil((date - Date.now()) / 1000))
  return Math.min(LAST_BACKOFF_SECONDS, FIRST_BACKOFF_SECONDS * 2 ** attempt)
}

function eventOf(request: number, attempt: number, answer: Answer, waitSeconds: number | undefined): ClientEvent {
  const { status, headers, text, ms, failure } = answer
  const count = (name: string) => (headers.has(name) ? Number(headers.get(name)) : undefined)
  return {
    event: 'answer',
    request,
    attempt: attempt + 1,
    status,
    ms: Math.round(ms * 10) / 10,
    limit: count('x-ratelimit-limit'),
    remaining: count('x-ratelimit-remaining'),
    resetSeconds: count('x-ratelimit-reset'),
    waitSeconds,
    predictions: status === 200 ? labelsOf(text) : undefined,
    reason: failure ?? (status === 200 ? undefined : detailOf(text)),
  }
}

function labelsOf(text: string): { label?: string; score?: number }[] | undefined {
  const { predictions } = parse(text) as { predictions?: { label?: string; score?: number }[] }
  return predictions?.map(({ label, score }) => ({ ...(label && { label }), ...(score !== undefined && { score }) }))
}

function detailOf(text: string): string {
  const { detail, message } = parse(text) as { detail?: string; message?: string }
  return detail ?? message ?? text.slice(0, 200)
}

function parse(text: string): object {
  try {
    return (JSON.parse(text) as object | null) ?? {}
  } catch {
    return {}
  }
}

/** What happened to a connection, in words. */
function reasonOf(error: unknown): string {
  const { name, cause, message } = error as Error & { cause?: NodeJS.ErrnoException }
  if (name === 'TimeoutError') return 'no answer in time'
  // A name with several addresses fails with a list of errors.
  const inner = cause instanceof AggregateError ? (cause.errors[0] as NodeJS.ErrnoException) : cause
  switch (inner?.code) {
    case 'ECONNREFUSED':
      return 'connection refused'
    case 'ECONNRESET':
    case 'EPIPE':
    case 'UND_ERR_SOCKET':
      return 'connection dropped'
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'unknown host'
    default:
      return inner?.code ?? inner?.message ?? message
  }
}

async function main(): Promise<number> {
  const options = await readOptions(process.argv.slice(2))
  if (options === 'help') {
    process.stdout.write(HELP)
    return EXIT.allAnswered
  }
  const interruption = new AbortController()
  const interrupt = () => interruption.abort(new Error('interrupted'))
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt)
  const { signal } = interruption

  const out = printer(process.stdout, options.json, options.requests)
  const client = new Client(options, out, signal)
  const since = performance.now()
  let answered = 0
  let failed = 0
  try {
    const body = options.body ?? (await client.sampleBody())
    for (let number = 1; number <= options.requests; number++) {
      if (await client.predict(number, body)) answered++
      else failed++
      if (options.intervalMs > 0 && number < options.requests) await delay(options.intervalMs, undefined, { signal })
    }
  } catch (error) {
    if (!signal.aborted) throw error
  }
  out.print({
    event: 'summary',
    requests: options.requests,
    answered,
    failed,
    tries: client.tries,
    waitedSeconds: client.waitedSeconds,
    seconds: Math.round(performance.now() - since) / 1000,
  })
  if (signal.aborted) return EXIT.interrupted
  return answered === options.requests ? EXIT.allAnswered : EXIT.someFailed
}

try {
  process.exitCode = await main()
} catch (error) {
  const { code, message } = error as NodeJS.ErrnoException
  const wrong = error instanceof WrongOption || code?.startsWith('ERR_PARSE_ARGS') === true
  process.stderr.write(`${message}${wrong ? '\nnpm run client -- --help says what there is' : ''}\n`)
  process.exitCode = wrong ? EXIT.wrongOptions : EXIT.someFailed
}
