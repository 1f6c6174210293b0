/** The models of a folder: loaded, checked, warmed, swapped while they serve. */
import { ModelLoading, ModelRequired, NoModels, UnknownModel } from '../errors.js'
import type { AdmissionOptions } from '../queue/admission.js'
import { limit } from '../queue/admission-constants.js'
import { type BatchEvent, type Clock, Scheduler } from '../queue/scheduler.js'
import type { BrokenModel, Log, Model, ModelInfo, ModelStats, Models, ReloadReport, RoutingInfo } from '../types.js'
import { usableCores } from '../workers/cores.js'
import { Pool } from '../workers/pool.js'
import { Trials } from '../workers/trials.js'
import type { Isolation } from '../workers/worker-port.js'
import { LocalModels } from './local-models.js'
import { isLeftOut, newestFirst, type Scan, scanModels } from './model-scan.js'
import { RemoteModels } from './remote-models.js'
import { type Routes, routesOf, routingInfo, Tally, versionFor } from './routing.js'
import { type ModelSource, nameOf, type Served, type SourceOptions } from './source.js'

/** What the engine tells of itself, for metrics. */
export type InferenceEvent =
  | ({ readonly type: 'batch'; readonly model: string; readonly version: string } & Omit<BatchEvent, 'key'>)
  | { readonly type: 'worker-started' | 'worker-lost'; readonly slot: number; readonly reason?: string }
  | { readonly type: 'reloaded'; readonly report: ReloadReport }

export interface ModelsOptions {
  /** Folder with `<name>/<version>/model.onnx`. */
  readonly dir: string
  /** The model meant by requests that name none; needless where there is but one. */
  readonly defaultModel?: string | undefined
  /** Workers; as many as cores that this process may use by default. */
  readonly workers?: number | undefined
  /** Rows of one run; found for each model by timing by default. model.json's `maxBatchRows` goes first. */
  readonly batchMaxRows?: number | undefined
  /** How long a request may wait for company while a worker is free, in milliseconds; 0 by default. */
  readonly batchMaxDelayMs?: number | undefined
  /** `off`: requests are refused only where more than `queueMaxRows` would wait. `on` by default. */
  readonly admission?: AdmissionOptions['mode'] | undefined
  /** Rows that may wait for one model; any number by default. */
  readonly queueMaxRows?: number | undefined
  /** Milliseconds that requests are meant to wait at most while a model is asked for more than it can run. */
  readonly admissionWaitMs?: number | undefined
  readonly isolation?: Isolation | undefined
  /** A run of more than this is taken for one that will not end: 60 s by default. */
  readonly stuckAfterMs?: number | undefined
  /** Milliseconds that a model may take to be loaded and checked before it serves: 60 s by default. */
  readonly trialTimeoutMs?: number | undefined
  /** Longest request body in bytes, for a warning about models whose rows are longer; none by default. */
  readonly bodyLimit?: number | undefined
  readonly log: Log
  readonly onEvent?: ((event: InferenceEvent) => void) | undefined
}

const clock: Clock = {
  now: () => performance.now(),
  afterTurn: callback => void setImmediate(callback),
  after: (ms, callback) => {
    const timer = setTimeout(callback, Math.ceil(ms)).unref()
    return () => clearTimeout(timer)
  },
}

/** How often the log tells how far a load is, in milliseconds. */
const progressMs = 5000

/**
 * Loads every model of the folder and resolves when all are warm. Rejects with NoModels where the folder holds nothing
 * that can be served, and with UnknownModel where `defaultModel` is not there.
 */
export async function openModels(options: ModelsOptions): Promise<Repository> {
  const repository = new Repository(options)
  await repository.opened
  return repository
}

/** The same at once: each model serves as soon as it is loaded, and `opened` tells when all are, or why none can be. */
export const beginModels = (options: ModelsOptions): Repository => new Repository(options)

export class Repository implements Models {
  /** Resolves when the folder was read and holds something to load; rejects with NoModels where it does not. */
  readonly scanned: Promise<void>
  /** Resolves when the first load is over; rejects, with everything closed again, where nothing can serve. */
  readonly opened: Promise<void>
  readonly #options: ModelsOptions
  readonly #scheduler: Scheduler
  readonly #pool: Pool
  readonly #trials: Trials
  readonly #sources: readonly ModelSource[]
  #tellScanned: () => void = () => {}
  /** Versions of each model, newest first. Replaced as a whole: a reader sees the old state or the new one. */
  #catalog: ReadonlyMap<string, Routes> = new Map()
  /** By the names of model and version. */
  readonly #tallies = new Map<string, Tally>()
  readonly #stats = new Map<string, Stats>()
  /** Models that are not to serve, though the folder has them. */
  readonly #unloaded = new Set<string>()
  /** The default version of each model. */
  #defaults: readonly Model[] = []
  /** What is wrong with the folder itself. */
  #broken: readonly BrokenModel[] = []
  #folderFault: string | undefined
  #odd: readonly string[] = []
  /** Versions of each model that the first load is not done with; undefined once it is over. */
  #loading: Map<string, number> | undefined = new Map()
  #reloads: Promise<unknown> = Promise.resolve()
  #closing: Promise<void> | undefined
  #nextKey = 1

  constructor(options: ModelsOptions) {
    this.#options = options
    this.#scheduler = new Scheduler({
      clock,
      admission: {
        mode: options.admission ?? 'on',
        queueMaxRows: options.queueMaxRows ?? Number.POSITIVE_INFINITY,
        limit: { mostWaitMs: options.admissionWaitMs ?? limit.mostWaitMs },
      },
      onBatch: event => this.#onBatch(event),
    })
    const runTimeoutMs = options.stuckAfterMs ?? 60_000
    const trialTimeoutMs = options.trialTimeoutMs ?? 60_000
    const size = options.workers ?? usableCores()
    this.#pool = new Pool(this.#scheduler, {
      size,
      isolation: options.isolation ?? 'thread',
      log: options.log,
      stuckAfterMs: runTimeoutMs,
      onWorker: ({ type, ...rest }) => options.onEvent?.({ type: `worker-${type}`, ...rest }),
    })
    const source: SourceOptions = {
      scheduler: this.#scheduler,
      log: options.log,
      batchMaxRows: options.batchMaxRows,
      batchMaxDelayMs: options.batchMaxDelayMs ?? 0,
      runTimeoutMs,
      trialTimeoutMs,
      bodyLimit: options.bodyLimit ?? Number.POSITIVE_INFINITY,
      nextKey: name => `${name}#${this.#nextKey++}`,
      successor: (name, asked, caller) => this.get(name, asked, caller),
      changed: (loaded, broken = []) => this.#changed(loaded, broken),
    }
    this.#trials = new Trials({ timeoutMs: trialTimeoutMs, parallel: Math.max(2, size) })
    this.#sources = [new LocalModels(this.#pool, this.#trials, source), new RemoteModels(source)]
    const scanned = new Promise<void>(resolve => {
      this.#tellScanned = resolve
    })
    this.opened = this.#open()
    this.scanned = Promise.race([scanned, this.opened])
    // Whoever waits for them hears.
    this.opened.catch(() => {})
    this.scanned.catch(() => {})
  }

  list(): readonly Model[] {
    return this.#defaults
  }

  versions(name: string): readonly Model[] {
    return this.#catalog.get(name)?.versions.map(({ model }) => model) ?? []
  }

  get(name = this.#defaultName(), version?: string, caller?: string): Model {
    const routes = this.#catalog.get(name)
    if (routes === undefined) {
      if (this.#loading?.has(name)) throw new ModelLoading(name)
      throw new UnknownModel(name, undefined, [...this.#catalog.keys()])
    }
    if (version === undefined) return routes.split === undefined ? routes.byDefault : versionFor(routes, caller)
    const entry = routes.versions.find(({ model }) => model.info.version === version)
    if (entry === undefined) {
      throw new UnknownModel(
        name,
        version,
        routes.versions.map(({ model }) => model.info.version),
      )
    }
    return entry.model
  }

  routing(name: string): RoutingInfo | undefined {
    const routes = this.#catalog.get(name)
    if (routes === undefined) return undefined
    const target = routes.shadow?.target.info
    return routingInfo(routes, target && this.#tallies.get(`${name}/${target.version}`))
  }

  stats(name: string): readonly ModelStats[] {
    return this.versions(name).map(({ info: { version } }) => this.#statsOf(name, version))
  }

  async setLoaded(name: string, loaded: boolean): Promise<void> {
    const changed = loaded ? this.#unloaded.delete(name) : !this.#unloaded.has(name)
    if (!loaded) this.#unloaded.add(name)
    try {
      // Files of other models that are there by now are left for the next reload.
      await this.#inTurn(() => this.#reload(name))
    } catch (error) {
      if (changed && !loaded) this.#unloaded.delete(name)
      throw error
    }
  }

  get broken(): readonly BrokenModel[] {
    return [...this.#broken, ...this.#sources.flatMap(({ broken }) => broken)]
  }

  get loading(): readonly string[] {
    return [...(this.#loading?.keys() ?? [])]
  }

  get faults(): readonly string[] {
    const folder = this.#folderFault === undefined ? [] : [this.#folderFault]
    const routes = [...this.#catalog.values()].flatMap(({ faults }) => faults)
    return [...folder, ...routes, ...this.#sources.flatMap(({ faults }) => faults)]
  }

  get ready(): boolean {
    return (
      this.#closing === undefined &&
      this.#loading === undefined &&
      this.#defaults.some(({ ready }) => ready) &&
      this.#sources.every(({ ready }) => ready)
    )
  }

  /** Rows that wait, over all models. */
  get queueRows(): number {
    return this.#scheduler.queueRows
  }

  takeResults(): void {
    this.#pool.takeResults()
  }

  /** Process ids of the workers, where they are processes. */
  get workerPids(): readonly number[] {
    return this.#pool.pids
  }

  reload(): Promise<ReloadReport> {
    return this.#inTurn(() => this.#reload())
  }

  close(): Promise<void> {
    this.#closing ??= this.#close()
    return this.#closing
  }

  #defaultName(): string {
    const { defaultModel } = this.#options
    if (defaultModel !== undefined) return defaultModel
    const names = [...this.#catalog.keys()]
    if (this.#loading !== undefined && this.#loading.size > 0) throw new ModelLoading(undefined)
    if (names.length !== 1) throw new ModelRequired(names)
    return names[0] as string
  }

  async #close(): Promise<void> {
    const stopped = this.#scheduler.stop()
    this.#trials.abort()
    await this.#reloads
    await stopped
    await Promise.all(this.#sources.map(source => source.close()))
  }

  async #open(): Promise<void> {
    try {
      await this.reload()
      const { defaultModel } = this.#options
      if (defaultModel !== undefined) this.get(defaultModel)
    } catch (error) {
      await this.close()
      throw error
    }
  }

  /** `only`: the name of the model that is read again; all when left out. */
  async #reload(only?: string): Promise<ReloadReport> {
    if (this.#closing !== undefined) throw new Error('the models are being closed')
    const scan = await this.#scan(only)
    this.#broken = [...this.#broken.filter(each => isLeftOut(each, scan)), ...scan.broken]
    const isEmpty = scan.found.length + scan.withoutVersion.length === 0
    if (isEmpty && this.#catalog.size === 0) throw new NoModels(nothingLoads(this.#options.dir, scan.broken))
    this.#tellScanned()
    const report = await this.#update(scan)
    const gone = this.#sources.map(source => source.gone(scan))
    if (this.#sources.every((source, i) => source.serving.length === gone[i]?.length)) {
      throw new NoModels(nothingLoads(this.#options.dir, report.broken))
    }
    for (const [i, source] of this.#sources.entries()) source.remove(gone[i] as readonly Served[])
    const removed = gone.flat().map(nameOf)
    for (const each of removed) this.#options.log.info({ model: each }, 'model removed')
    const whole = { ...report, removed }
    this.#options.onEvent?.({ type: 'reloaded', report: whole })
    return whole
  }

  async #scan(only: string | undefined): Promise<Scan> {
    const { dir, log } = this.#options
    try {
      const whole = await scanModels(dir)
      const isWanted = (model: { readonly name: string }) =>
        !this.#unloaded.has(model.name) && !isLeftOut(model, { only })
      const scan = {
        only,
        found: whole.found.filter(isWanted),
        withoutVersion: whole.withoutVersion.filter(isWanted),
        broken: whole.broken.filter(isWanted),
        unreadable: whole.unreadable,
        odd: whole.odd,
      }
      for (const words of scan.odd) if (!this.#odd.includes(words)) log.warn({ path: words.split(' ')[0] }, words)
      this.#odd = scan.odd
      this.#folderFault = undefined
      return scan
    } catch (error) {
      this.#folderFault = 'the folder of models could not be read at the last reload'
      throw error
    }
  }

  /** Has the sources bring what is new or has changed, and tells how far they are. */
  async #update(scan: Scan): Promise<Omit<ReloadReport, 'removed'>> {
    const { log } = this.#options
    const names = [...scan.found, ...scan.withoutVersion].map(({ name }) => name)
    const left = new Map<string, number>()
    for (const name of names) left.set(name, (left.get(name) ?? 0) + 1)
    if (this.#loading !== undefined) this.#loading = left
    let done = 0
    const progress = {
      done: (name: string) => {
        done++
        const versions = (left.get(name) ?? 0) - 1
        if (versions > 0) left.set(name, versions)
        else left.delete(name)
      },
    }
    const timer = setInterval(() => {
      log.info({ done, of: names.length, next: [...left.keys()].slice(0, 10) }, 'models are being loaded')
    }, progressMs).unref()
    try {
      for (const each of scan.broken) this.#tellBroken(each)
      const reports = await Promise.all(this.#sources.map(source => source.update(scan, progress)))
      return {
        loaded: reports.flatMap(({ loaded }) => loaded),
        unchanged: reports.flatMap(({ unchanged }) => unchanged),
        broken: [...scan.broken, ...reports.flatMap(({ broken }) => broken)],
      }
    } finally {
      clearInterval(timer)
      this.#loading = undefined
    }
  }

  /** One after the other: each compares with what the one before has put in place. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#reloads.then(change)
    this.#reloads = turn.catch(() => {})
    return turn
  }

  /** Has all serve that the sources name. */
  #changed(loaded: readonly Served[], broken: readonly BrokenModel[]): void {
    const { log } = this.#options
    const entries = this.#sources.flatMap(({ serving }) => serving)
    const old = [...this.#catalog.values()].flatMap(({ versions }) => versions)
    this.#catalog = catalogOf(entries)
    this.#defaults = [...this.#catalog.values()].map(({ byDefault }) => byDefault)
    for (const routes of this.#catalog.values()) this.#setShadows(routes)
    const serving = new Set(entries.map(({ model }) => model))
    for (const { model } of old) if (!serving.has(model)) model.retire()
    for (const { model, unknownKeys } of loaded) {
      const { name, version, batching } = model.info
      log.info({ model: name, version, batching }, 'model loaded')
      if (unknownKeys.length > 0) log.warn({ model: name, keys: unknownKeys }, 'model.json has unknown fields')
    }
    if (this.#closing === undefined) for (const each of broken) this.#tellBroken(each)
  }

  #setShadows({ versions, shadow }: Routes): void {
    for (const { model } of versions) {
      const shares = shadow !== undefined && shadow.target !== model
      model.setShadow(shares ? { ...shadow, tally: this.#tallyOf(nameOfModel(shadow.target.info)) } : undefined)
    }
  }

  #tallyOf(version: string): Tally {
    const known = this.#tallies.get(version) ?? new Tally()
    this.#tallies.set(version, known)
    return known
  }

  #statsOf(name: string, version: string): Stats {
    const key = `${name}/${version}`
    const known = this.#stats.get(key) ?? new Stats(name, version)
    this.#stats.set(key, known)
    return known
  }

  #tellBroken({ name, version, reason }: BrokenModel): void {
    this.#options.log.error({ model: name, version, reason }, 'a model cannot be served')
  }

  #onBatch({ key, ...event }: BatchEvent): void {
    const [model = '', version = ''] = key.split(/[/#]/)
    this.#statsOf(model, version).ran(event)
    this.#options.onEvent?.({ type: 'batch', model, version, ...event })
  }
}

function catalogOf(entries: readonly Served[]): ReadonlyMap<string, Routes> {
  const byName = new Map<string, Served[]>()
  for (const entry of entries) {
    const { name } = entry.model.info
    const versions = byName.get(name)
    if (versions === undefined) byName.set(name, [entry])
    else versions.push(entry)
  }
  const catalog = new Map<string, Routes>()
  for (const name of [...byName.keys()].sort()) {
    const versions = byName.get(name) as Served[]
    versions.sort((a, b) => newestFirst(a.model.info.version, b.model.info.version))
    catalog.set(name, routesOf(versions))
  }
  return catalog
}

const nameOfModel = ({ name, version }: ModelInfo): string => `${name}/${version}`

/** What one version has run. */
class Stats implements ModelStats {
  rows = 0
  batches = 0
  failedBatches = 0
  queueMs = 0
  computeMs = 0
  lastAt = 0
  readonly bySize = new Map<number, { count: number; ms: number }>()

  constructor(
    readonly name: string,
    readonly version: string,
  ) {}

  ran({ rows, queueMs, computeMs, failed }: Omit<BatchEvent, 'key'>): void {
    this.lastAt = Date.now()
    if (failed) {
      this.failedBatches++
      return
    }
    this.rows += rows
    this.batches++
    this.queueMs += queueMs
    this.computeMs += computeMs
    const size = this.bySize.get(rows)
    if (size === undefined) this.bySize.set(rows, { count: 1, ms: computeMs })
    else {
      size.count++
      size.ms += computeMs
    }
  }
}

function nothingLoads(dir: string, broken: readonly BrokenModel[]): string {
  if (broken.length === 0) return `the folder of models '${dir}' holds none (<name>/<version>/model.onnx)`
  const reasons = broken.map(({ name, version, reason }) => `${name}${version ? `/${version}` : ''}: ${reason}`)
  return `no model of '${dir}' can be served; ${reasons.join('; ')}`
}
