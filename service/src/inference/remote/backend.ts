/**
 * Everywhere that one remote model runs. Each url in health has its lanes in the scheduler, like workers of a pool; one
 * that fails takes them out, and is asked again until it is back.
 */
import { isDeepStrictEqual } from 'node:util'
import { BackendFailed, BackendUnavailable, Cancelled, InputRefused, NotRun } from '../errors.js'
import type { Scheduler } from '../queue/scheduler.js'
import type { Log } from '../types.js'
import type { BackendSettings } from './backend-json.js'
import { Endpoint } from './endpoint.js'
import { Lane } from './lane.js'
import { type RemoteMetadata, speaksBinary, takesTimeout } from './metadata.js'

/** What is known of one url. */
export interface Place {
  readonly endpoint: Endpoint
  lanes: readonly Lane[]
  healthy: boolean
  binary: boolean
  timeoutParameter: boolean
}

export interface BackendOptions {
  readonly name: string
  readonly settings: BackendSettings
  readonly scheduler: Scheduler
  readonly log: Log
}

export class Backend {
  readonly options: BackendOptions
  readonly #places: readonly Place[]
  #metadata: RemoteMetadata | undefined
  #serving = false
  /** The name of this version in the scheduler; known once the version is. */
  key = ''
  #timer: NodeJS.Timeout | undefined
  #closed = false

  constructor(options: BackendOptions) {
    this.options = options
    this.#places = options.settings.urls.map(url => ({
      endpoint: new Endpoint(url, options.settings),
      lanes: [],
      healthy: false,
      binary: false,
      timeoutParameter: false,
    }))
  }

  /** Asks every url; resolves with what the first that answers says. Throws Error with each one's reason where none does. */
  async open(): Promise<RemoteMetadata> {
    const reasons = await Promise.all(this.#places.map(place => this.#ask(place)))
    if (this.#metadata === undefined) throw new Error(`no backend serves it: ${reasons.join('; ')}`)
    return this.#metadata
  }

  get metadata(): RemoteMetadata {
    if (this.#metadata === undefined) throw new Error('the backend has not been opened')
    return this.#metadata
  }

  /** A lane of a url in health, for the calls that are made before the model serves. */
  anyLane(): Lane {
    const place = this.#places.find(({ healthy }) => healthy)
    if (place === undefined) throw new Error('no backend serves it any more')
    return new Lane(this, place)
  }

  /** Puts the lanes into the scheduler, and watches from now on. */
  serve(): void {
    this.#serving = true
    for (const place of this.#places) if (place.healthy) this.#enter(place)
    this.#watchLater()
  }

  /** Throws BackendUnavailable where no url is in health. */
  assertAvailable(): void {
    if (!this.#places.some(({ healthy }) => healthy)) throw this.#noneLeft()
  }

  /** Ends the connections. What runs is to have ended. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    for (const place of this.#places) this.#leave(place)
    await Promise.all(this.#places.map(({ endpoint }) => endpoint.close()))
  }

  /** What becomes of a failed call: its url may be left out, and the last one's failure is nobody's to retry. */
  failed(place: Place, error: Error): Error {
    const { log, name } = this.options
    if (error instanceof Cancelled) return error
    if (error instanceof InputRefused || error instanceof BackendFailed) {
      log.warn({ model: name, url: place.endpoint.url, reason: error.detail }, 'a backend did not answer as promised')
      return error
    }
    if (error instanceof BackendUnavailable) {
      // One that is busy is not gone; whether it is stopping, it says itself.
      if (error.busy) void this.#ask(place)
      else this.#leaveOut(place, error.message)
      return error instanceof NotRun && !this.#places.some(({ healthy }) => healthy) ? this.#noneLeft() : error
    }
    return error
  }

  #noneLeft = (): BackendUnavailable => new BackendUnavailable('no backend of this model can be reached at the moment')

  /** Undefined where the url is in health now, or why it is not. */
  async #ask(place: Place): Promise<string | undefined> {
    const { url } = place.endpoint
    try {
      await place.endpoint.assertReady()
      if (place.healthy) return undefined
      const [metadata, extensions] = await Promise.all([place.endpoint.metadata(), place.endpoint.extensions()])
      this.#metadata ??= metadata
      if (!isDeepStrictEqual(metadata.signature, this.#metadata.signature)) {
        throw new Error('the model there takes or gives other tensors than where it was first seen')
      }
      place.binary = speaksBinary(extensions)
      place.timeoutParameter = takesTimeout(extensions)
      if (this.#closed) return undefined
      place.healthy = true
      if (this.#serving) {
        this.options.log.info({ model: this.options.name, url }, 'a backend is back')
        this.#enter(place)
      }
      return undefined
    } catch (error) {
      const reason = `${url}: ${(error as Error).message || (error as { code?: string }).code}`
      this.#leaveOut(place, reason)
      return reason
    }
  }

  #enter(place: Place): void {
    place.lanes = Array.from({ length: this.options.settings.lanes }, () => new Lane(this, place))
    for (const lane of place.lanes) this.options.scheduler.addRunner(lane)
  }

  #leaveOut(place: Place, reason: string): void {
    if (!place.healthy) return
    place.healthy = false
    this.#leave(place)
    const { log, name, scheduler } = this.options
    log.warn({ model: name, url: place.endpoint.url, reason }, 'a backend is left out')
    if (!this.#places.some(({ healthy }) => healthy)) scheduler.rejectWaiting(this.#noneLeft(), this.key)
  }

  #leave(place: Place): void {
    for (const lane of place.lanes) this.options.scheduler.removeRunner(lane)
    place.lanes = []
  }

  #watchLater(): void {
    if (this.#closed) return
    this.#timer = setTimeout(() => {
      void Promise.all(this.#places.map(place => this.#ask(place))).then(() => this.#watchLater())
    }, this.options.settings.healthIntervalMs).unref()
  }
}
