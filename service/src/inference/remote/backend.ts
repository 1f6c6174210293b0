/**
 * Everywhere that one remote model runs. Each url in use has its lanes in the scheduler, like workers of a pool. A call
 * that is lost has the url asked for its health, while requests wait; only a url that does not answer well is left out,
 * or one that loses call after call although it says that it is well. It is asked again until it is back.
 */
import { setTimeout as delay } from 'node:timers/promises'
import { isDeepStrictEqual } from 'node:util'
import { BackendFailed, BackendUnavailable, Cancelled, InputRefused } from '../errors.js'
import type { Scheduler } from '../queue/scheduler.js'
import type { Log } from '../types.js'
import type { BackendSettings } from './backend-json.js'
import { Endpoint } from './endpoint.js'
import { Lane } from './lane.js'
import { type RemoteMetadata, speaksBinary, takesTimeout } from './metadata.js'

/** Milliseconds before each question about health after a lost call: a restart behind one address takes a moment. */
const questionsAfterMs = [0, 100, 200, 400, 800]
/** Milliseconds after which no further question is put: a host that does not even refuse connections is gone. */
const longestDoubtMs = 2000
/** Lost calls in a row after which a url is left out although it says that it is well, where there is another one. */
const mostLost = 5
/** Milliseconds for which it is left out then: the first time, doubled each time, and at most. */
const leftOutMs = 1000
const mostLeftOutMs = 60_000

/** What is known of one url. */
export interface Place {
  readonly endpoint: Endpoint
  lanes: readonly Lane[]
  /** `doubted`: it gets no calls until it has answered whether it is well. */
  state: 'up' | 'doubted' | 'out'
  /** Why it is out, as it was logged last. */
  reason: string | undefined
  /** Calls that were lost one after the other, and how often it was left out for that, until when. */
  lost: number
  leftOut: number
  outUntil: number
  /** What it said of the model last. */
  metadata: RemoteMetadata | undefined
  asking: Promise<string | undefined> | undefined
  binary: boolean
  timeoutParameter: boolean
}

export interface BackendOptions {
  readonly name: string
  readonly settings: BackendSettings
  readonly scheduler: Scheduler
  readonly log: Log
  /** How long a call may take whose requests set no deadline, in milliseconds. */
  readonly runTimeoutMs: number
  /** Called when the model is another one wherever it can be reached: it is to be opened again. */
  readonly onChanged: () => void
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
      endpoint: new Endpoint(url, options.settings, options.runTimeoutMs),
      lanes: [],
      state: 'out',
      reason: undefined,
      lost: 0,
      leftOut: 0,
      outUntil: 0,
      metadata: undefined,
      asking: undefined,
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

  /** A lane of a url that is up, for the calls that are made before the model serves. */
  anyLane(): Lane {
    const place = this.#places.find(({ state }) => state === 'up')
    if (place === undefined) throw new Error('no backend serves it any more')
    return new Lane(this, place)
  }

  /** Puts the lanes into the scheduler, and watches from now on. */
  serve(): void {
    this.#serving = true
    for (const place of this.#places) {
      if (place.state === 'up') this.#enter(place)
      // Which says why, once more.
      else void this.#ask(place)
    }
    this.#watchLater()
  }

  /** Throws BackendUnavailable where no url is in use. */
  assertAvailable(): void {
    if (this.#places.every(({ state }) => state === 'out')) throw this.#noneLeft()
  }

  /** Ends the connections. What runs is to have ended. */
  async close(): Promise<void> {
    this.#closed = true
    clearTimeout(this.#timer)
    for (const place of this.#places) this.#leave(place)
    await Promise.all(this.#places.map(({ endpoint }) => endpoint.close()))
  }

  succeeded(place: Place): void {
    place.lost = 0
    place.leftOut = 0
  }

  /** What becomes of a failed call: its url may be asked how it is, or left out. */
  failed(place: Place, error: Error): Error {
    const { log, name } = this.options
    if (error instanceof Cancelled) return error
    if (error instanceof InputRefused || error instanceof BackendFailed) {
      log.warn({ model: name, url: place.endpoint.url, reason: error.detail }, 'a backend did not answer as promised')
      // It may be another model by now.
      void this.#look(place)
      return error
    }
    if (!(error instanceof BackendUnavailable)) return error
    // One that is busy is not gone; whether it is stopping, it says itself.
    if (error.busy) void this.#look(place)
    else this.#lost(place, error.message)
    return this.#places.every(({ state }) => state === 'out') ? this.#noneLeft() : error
  }

  #noneLeft = (): BackendUnavailable => new BackendUnavailable('no backend of this model can be reached at the moment')

  /** A call did not come back. */
  #lost(place: Place, reason: string): void {
    place.lost++
    if (place.state !== 'up') return
    const hasOther = this.#places.some(other => other !== place && other.state === 'up')
    if (place.lost < mostLost || !hasOther) {
      void this.#doubt(place)
      return
    }
    place.outUntil = performance.now() + Math.min(leftOutMs * 2 ** place.leftOut, mostLeftOutMs)
    place.leftOut++
    this.#leaveOut(place, `${place.lost} calls in a row were lost: ${reason}`)
  }

  /** Holds calls back until the url has answered, in a few tries, whether it is well. */
  async #doubt(place: Place): Promise<void> {
    if (place.state !== 'up') return
    place.state = 'doubted'
    const since = performance.now()
    let reason: string | undefined
    for (const ms of questionsAfterMs) {
      if (ms > 0) await delay(ms, undefined, { ref: false })
      if (this.#closed || place.state !== 'doubted') return
      reason = await this.#ask(place)
      if (reason === undefined || performance.now() - since > longestDoubtMs) break
    }
    if (reason !== undefined) this.#leaveOut(place, reason)
  }

  /** Undefined where the url is well, and then it is in use; or why it is not. One question at a time. */
  #ask(place: Place): Promise<string | undefined> {
    place.asking ??= this.#question(place).finally(() => {
      place.asking = undefined
    })
    return place.asking
  }

  async #question(place: Place): Promise<string | undefined> {
    const { endpoint } = place
    if (performance.now() < place.outUntil) return place.reason
    try {
      await endpoint.assertReady()
      await this.#readMetadata(place)
      if (this.#misfits(place)) throw new Error('the model there takes or gives other tensors than the one that serves')
      if (place.state === 'out') {
        const extensions = await endpoint.extensions()
        place.binary = speaksBinary(extensions)
        place.timeoutParameter = takesTimeout(extensions)
      }
      if (!this.#closed) this.#use(place)
      this.#noteChange()
      return undefined
    } catch (error) {
      const reason = `${endpoint.url}: ${(error as Error).message || (error as { code?: string }).code}`
      // What it says itself needs no second question.
      if (this.#misfits(place) || place.state === 'out') this.#leaveOut(place, reason)
      return reason
    }
  }

  /** Each time, since a server may be replaced between two questions. One in use need not answer this one. */
  async #readMetadata(place: Place): Promise<void> {
    try {
      place.metadata = await place.endpoint.metadata()
      this.#metadata ??= place.metadata
    } catch (error) {
      if (place.state === 'out') throw error
    }
  }

  #misfits({ metadata }: Place): boolean {
    return metadata !== undefined && !isDeepStrictEqual(metadata.signature, this.#metadata?.signature)
  }

  /** Whether the model there is not the one that was opened: of other tensors or, where no version is set, of another one. */
  #differs(place: Place): boolean {
    if (this.options.settings.version !== undefined) return this.#misfits(place)
    return place.metadata !== undefined && !isDeepStrictEqual(place.metadata, this.#metadata)
  }

  /** While one of the urls still has the model that was opened, as in a rolling update, that one serves. */
  #noteChange(): void {
    if (!this.#serving || this.#closed) return
    const inUse = this.#places.filter(({ state }) => state !== 'out')
    const asked = inUse.length > 0 ? inUse : this.#places.filter(place => this.#misfits(place))
    if (asked.length > 0 && asked.every(place => this.#differs(place))) this.options.onChanged()
  }

  #use(place: Place): void {
    const before = place.state
    place.state = 'up'
    place.reason = undefined
    if (!this.#serving) return
    if (before === 'doubted') this.options.scheduler.wake()
    if (before !== 'out') return
    this.options.log.info({ model: this.options.name, url: place.endpoint.url }, 'a backend is back')
    this.#enter(place)
  }

  #enter(place: Place): void {
    place.lanes = Array.from({ length: this.options.settings.lanes }, () => new Lane(this, place))
    for (const lane of place.lanes) this.options.scheduler.addRunner(lane)
  }

  #leaveOut(place: Place, reason: string): void {
    const wasIn = place.state !== 'out'
    place.state = 'out'
    if (this.#closed || !this.#serving) return
    this.#tell(place, reason)
    this.#leave(place)
    if (this.#places.some(({ state }) => state !== 'out')) return
    if (wasIn) this.options.scheduler.rejectWaiting(this.#noneLeft(), this.key)
    this.#noteChange()
  }

  /** Logs why a url is left out, each new reason once. */
  #tell(place: Place, reason: string): void {
    if (place.reason === reason) return
    place.reason = reason
    const { log, name } = this.options
    log.warn({ model: name, url: place.endpoint.url, reason }, 'a backend is left out')
  }

  #leave(place: Place): void {
    for (const lane of place.lanes) this.options.scheduler.removeRunner(lane)
    place.lanes = []
  }

  #watchLater(): void {
    if (this.#closed) return
    this.#timer = setTimeout(() => {
      void Promise.all(this.#places.map(place => this.#look(place))).then(() => this.#watchLater())
    }, this.options.settings.healthIntervalMs).unref()
  }

  async #look(place: Place): Promise<void> {
    if ((await this.#ask(place)) !== undefined) await this.#doubt(place)
  }
}
