/** One url of a backend: its connections, its health, and the calls on it. */
import { type Dispatcher, errors, Pool } from 'undici'
import { BackendFailed, BackendUnavailable, Cancelled, DeadlineExceeded, InputRefused, NotRun } from '../errors.js'
import { headerLengthField } from '../v2-codec/binary.js'
import type { BackendSettings } from './backend-json.js'
import type { CallMessage } from './message.js'
import { type RemoteMetadata, readExtensions, readMetadata } from './metadata.js'

/** Answers beyond this are not read. */
const maxAnswerBytes = 256 * 1024 * 1024
/** To connect, and for the small questions about health and metadata, in milliseconds. */
const patienceMs = 3000

export interface Answer {
  readonly body: Buffer
  readonly headerLength: string | undefined
}

export class Endpoint {
  readonly url: string
  readonly #settings: BackendSettings
  readonly #pool: Pool
  readonly #base: string
  readonly #model: string

  /** `runTimeoutMs`: how long a call may take whose requests set no deadline. */
  constructor(url: string, settings: BackendSettings, runTimeoutMs: number) {
    this.url = url
    this.#settings = settings
    const { origin, pathname } = new URL(url)
    this.#base = pathname.replace(/\/+$/, '')
    const version = settings.version === undefined ? '' : `/versions/${encodeURIComponent(settings.version)}`
    this.#model = `${this.#base}/v2/models/${encodeURIComponent(settings.model)}${version}`
    this.#pool = new Pool(origin, {
      // One more than lanes, so that a question about health does not wait behind the calls.
      connections: settings.lanes + 1,
      pipelining: 1,
      connectTimeout: patienceMs,
      headersTimeout: runTimeoutMs,
      bodyTimeout: runTimeoutMs,
      maxResponseSize: maxAnswerBytes,
    })
  }

  /** Throws Error where the model is not ready there. An empty body is what Triton sends; KServe says more. */
  async assertReady(): Promise<void> {
    const { statusCode, body } = await this.#get(`${this.#model}/ready`)
    if (statusCode !== 200) throw new Error(`the model is not ready: ${statusCode}`)
    if (parse(body)?.ready === false) throw new Error('the model is not ready')
  }

  /** Throws Error where the server does not tell, or tells what cannot be served. */
  async metadata(): Promise<RemoteMetadata> {
    const { signature } = this.#settings
    const { statusCode, body } = await this.#get(this.#model)
    // Some servers have no such page.
    if (signature !== undefined && [404, 405, 501].includes(statusCode)) {
      return { signature, platform: undefined, version: undefined }
    }
    if (statusCode !== 200) throw new Error(`no metadata of the model: ${statusCode}`)
    return readMetadata(parse(body), signature)
  }

  async extensions(): Promise<readonly string[]> {
    const { statusCode, body } = await this.#get(`${this.#base}/v2`)
    return statusCode === 200 ? readExtensions(parse(body)) : []
  }

  /** Rejects with NotRun, BackendUnavailable, BackendFailed, InputRefused, DeadlineExceeded or Cancelled. */
  async infer(
    { body, headers }: CallMessage,
    signal: AbortSignal,
    more?: Readonly<Record<string, string>>,
  ): Promise<Answer> {
    let response: Dispatcher.ResponseData
    let bytes: Buffer
    try {
      const path = `${this.#model}/infer`
      const all = { ...this.#settings.headers, ...headers, ...more }
      response = await this.#pool.request({ method: 'POST', path, headers: all, body, signal })
      bytes = Buffer.from(await response.body.arrayBuffer())
    } catch (error) {
      if (signal.aborted) throw new Cancelled()
      throw this.#lost(error)
    }
    const { statusCode } = response
    if (statusCode !== 200) throw this.#refused(statusCode, response.headers['retry-after'], bytes)
    const encoding = response.headers['content-encoding'] ?? 'identity'
    if (encoding !== 'identity') throw new BackendFailed(`the answer is encoded as ${encoding}`)
    const length = response.headers[headerLengthField]
    return { body: bytes, headerLength: Array.isArray(length) ? length.join() : length }
  }

  close(): Promise<void> {
    return this.#pool.destroy()
  }

  async #get(path: string): Promise<{ statusCode: number; body: Buffer }> {
    const signal = AbortSignal.timeout(patienceMs)
    const { headers } = this.#settings
    const { statusCode, body } = await this.#pool.request({ method: 'GET', path, headers, signal })
    return { statusCode, body: Buffer.from(await body.arrayBuffer()) }
  }

  /** What no answer came to. Only a connection that was never made is proof that nothing ran. */
  #lost(error: unknown): Error {
    if (error instanceof errors.ResponseExceededMaxSizeError) return new BackendFailed('the answer is too long')
    const unsent = neverConnected(error)
    const lost =
      unsent || this.#settings.retry === 'safe'
        ? new NotRun("the model's backend cannot be reached")
        : new BackendUnavailable("the connection to the model's backend was lost; the request may have run")
    if (!unsent) lost.ranMs = undefined
    return lost
  }

  #refused(status: number, retryAfter: string | string[] | undefined, body: Buffer): Error {
    const detail = `status ${status}: ${body.toString('utf8', 0, 300)}`
    if (status === 400 || status === 413 || status === 422) return new InputRefused(detail)
    if (status === 504) return new DeadlineExceeded(true)
    if (status !== 429 && status !== 503) return new BackendFailed(detail)
    const seconds = Number(retryAfter)
    const wait = Number.isFinite(seconds) && seconds > 0 ? Math.min(seconds, 3600) * 1000 : 1000
    const message = "the model's backend is overloaded or not ready"
    return this.#settings.retry === 'safe'
      ? new NotRun(message, wait, true)
      : new BackendUnavailable(message, wait, true)
  }
}

function neverConnected(error: unknown): boolean {
  const { syscall, code } = error as { syscall?: string; code?: string }
  return syscall === 'connect' || syscall === 'getaddrinfo' || code === 'UND_ERR_CONNECT_TIMEOUT'
}

function parse(body: Buffer): Readonly<Record<string, unknown>> | undefined {
  try {
    return JSON.parse(body.toString('utf8'))
  } catch {
    return undefined
  }
}
