/** A client that obeys: waits as it is told, tries again what may get better, and says what happened. */
import type { ClientEvent, Printer } from './client-output.js'
import { Failure } from './io.js'

const FIRST_BACKOFF_SECONDS = 0.5
const LAST_BACKOFF_SECONDS = 5

export interface ClientOptions {
  readonly url: URL
  /** The model to ask; undefined: what the body says, or the first that the service names. */
  readonly model: string | undefined
  readonly apiKey: string | undefined
  /** How often one prediction is tried again before it counts as failed. */
  readonly retries: number
  readonly timeoutMs: number
}

/** One answer of the service, or none: `status` 0 with the reason. */
interface Answer {
  readonly status: number
  readonly headers: Headers
  readonly text: string
  readonly ms: number
  readonly failure?: string
}

/** What is read of a model's description. */
interface Described {
  readonly sample?: object
  readonly sampleUrl: string
}

export class Client {
  readonly #options: ClientOptions
  readonly #printer: Printer
  readonly #interrupted: AbortSignal
  waitedSeconds = 0
  tries = 0

  constructor(options: ClientOptions, printer: Printer, interrupted: AbortSignal) {
    this.#options = options
    this.#printer = printer
    this.#interrupted = interrupted
  }

  /** The first model's own sample, or that of the model asked for. */
  async sampleBody(): Promise<string> {
    const { model, url } = this.#options
    const path = model === undefined ? '/v1/models' : `/v1/models/${encodeURIComponent(model)}`
    const found = JSON.parse(await this.#get(path)) as Described & { readonly models?: readonly Described[] }
    const described = model === undefined ? found.models?.[0] : found
    if (described === undefined) throw new Failure(`${url.origin} serves no models; say what to send with --body`)
    // A long one has a URL of its own.
    return described.sample === undefined ? this.#get(described.sampleUrl) : JSON.stringify(described.sample)
  }

  async #get(path: string): Promise<string> {
    const { origin } = this.#options.url
    const { status, text } = await this.#untilAnswered(0, path)
    if (status === 0) throw new Failure(`${origin} does not answer`)
    if (status !== 200) throw new Failure(`${origin}${path} answers ${status}: ${detailOf(text)}`)
    return text
  }

  /** One prediction, tried again until it is answered for good. Resolves with whether that was 200. */
  async predict(number: number, body: string): Promise<boolean> {
    return (await this.#untilAnswered(number, '/v1/predict', body)).status === 200
  }

  async #untilAnswered(number: number, path: string, body?: string): Promise<Answer> {
    for (let attempt = 0; ; attempt++) {
      const answer = await this.#ask(path, body)
      if (this.#interrupted.aborted) throw this.#interrupted.reason
      if (number > 0) this.tries++
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
    // Not AbortSignal.any() of an AbortSignal.timeout(): Node 20 may collect that timeout, and then it never comes.
    const ending = new AbortController()
    const timer = setTimeout(() => ending.abort(new DOMException('', 'TimeoutError')), timeoutMs)
    const interrupt = () => ending.abort(this.#interrupted.reason)
    this.#interrupted.addEventListener('abort', interrupt)
    try {
      const response = await fetch(new URL(path, url), {
        method: body === undefined ? 'GET' : 'POST',
        headers: headersFor(body, apiKey),
        ...(body === undefined ? {} : { body }),
        signal: ending.signal,
      })
      const { status, headers } = response
      return { status, headers, text: await response.text(), ms: performance.now() - since }
    } catch (error) {
      return { status: 0, headers: new Headers(), text: '', ms: performance.now() - since, failure: reasonOf(error) }
    } finally {
      clearTimeout(timer)
      this.#interrupted.removeEventListener('abort', interrupt)
    }
  }
}

export const headersFor = (body: string | undefined, apiKey: string | undefined): Record<string, string> => ({
  accept: 'application/json, application/problem+json',
  ...(body === undefined ? {} : { 'content-type': 'application/json' }),
  ...(apiKey === undefined ? {} : { 'x-api-key': apiKey }),
})

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
    predictions: status === 200 ? predictionsOf(text) : undefined,
    reason: failure ?? (status === 200 ? undefined : detailOf(text)),
  }
}

type Predictions = Extract<ClientEvent, { event: 'answer' }>['predictions']

const predictionsOf = (text: string): Predictions => (parse(text) as { predictions?: Predictions }).predictions

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
export function reasonOf(error: unknown): string {
  // fetch() wraps what undici says.
  const { name, message, cause = error } = error as Error & { cause?: NodeJS.ErrnoException }
  if (name === 'TimeoutError') return 'no answer in time'
  // A name with several addresses fails with a list of errors.
  const inner = (cause instanceof AggregateError ? cause.errors[0] : cause) as NodeJS.ErrnoException
  switch (inner.code) {
    case 'ECONNREFUSED':
      return 'connection refused'
    case 'ECONNRESET':
    case 'EPIPE':
    case 'UND_ERR_SOCKET':
      return 'connection dropped'
    case 'UND_ERR_HEADERS_TIMEOUT':
    case 'UND_ERR_BODY_TIMEOUT':
      return 'no answer in time'
    case 'ENOTFOUND':
    case 'EAI_AGAIN':
      return 'unknown host'
    default:
      return inner.code ?? inner.message ?? message
  }
}
