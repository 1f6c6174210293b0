/** The models of a folder: loaded, checked, warmed, swapped while they serve. */
import { availableParallelism } from 'node:os'
import { ModelRequired, NoModels, UnknownModel } from '../errors.js'
import type { AdmissionOptions } from '../queue/admission.js'
import { limit } from '../queue/admission-constants.js'
import { type BatchEvent, type Clock, Scheduler } from '../queue/scheduler.js'
import type { BrokenModel, Log, Model, Models, ReloadReport } from '../types.js'
import { Pool } from '../workers/pool.js'
import type { Isolation } from '../workers/worker-port.js'
import { LocalModels } from './local-models.js'
import { newestFirst, scanModels } from './model-files.js'
import { RemoteModels } from './remote-models.js'
import { type Gathered, type ModelSource, nameOf, type Served, type SourceOptions } from './source.js'

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
  /** Workers; as many as cores by default. */
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

/**
 * Loads every model of the folder and resolves when all are warm. Rejects with NoModels where the folder holds nothing
 * that can be served, and with UnknownModel where `defaultModel` is not there.
 */
export async function openModels(options: ModelsOptions): Promise<Repository> {
  const repository = new Repository(options)
  try {
    await repository.reload()
    repository.checkDefault()
    return repository
  } catch (error) {
    await repository.close()
    throw error
  }
}

export class Repository implements Models {
  readonly #options: ModelsOptions
  readonly #scheduler: Scheduler
  readonly #pool: Pool
  readonly #sources: readonly ModelSource[]
  /** Versions of each model, newest first. Replaced as a whole: a reader sees the old state or the new one. */
  #catalog: ReadonlyMap<string, readonly Served[]> = new Map()
  /** Of each model its newest version. */
  #newest: readonly Model[] = []
  /** What serves, by its source, and what is wrong with the folder itself. */
  readonly #serving = new Map<ModelSource, readonly Served[]>()
  #broken: readonly BrokenModel[] = []
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
    this.#pool = new Pool(this.#scheduler, {
      size: options.workers ?? availableParallelism(),
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
      nextKey: name => `${name}#${this.#nextKey++}`,
      successor: (name, asked) => this.get(name, asked),
      putInPlace: (from, gathered) => this.#inTurn(() => this.#putOneInPlace(from, gathered())),
    }
    this.#sources = [new LocalModels(this.#pool, source), new RemoteModels(source)]
  }

  list(): readonly Model[] {
    return this.#newest
  }

  versions(name: string): readonly Model[] {
    return this.#catalog.get(name)?.map(({ model }) => model) ?? []
  }

  get(name = this.#defaultName(), version?: string): Model {
    const entries = this.#catalog.get(name)
    if (entries === undefined) throw new UnknownModel(name, undefined, [...this.#catalog.keys()])
    const entry = version === undefined ? entries[0] : entries.find(({ model }) => model.info.version === version)
    if (entry === undefined) {
      throw new UnknownModel(
        name,
        version,
        entries.map(({ model }) => model.info.version),
      )
    }
    return entry.model
  }

  get broken(): readonly BrokenModel[] {
    return [...this.#broken, ...this.#sources.flatMap(({ broken }) => broken)]
  }

  get ready(): boolean {
    return (
      this.#closing === undefined &&
      this.#newest.some(({ ready }) => ready) &&
      this.#sources.every(({ ready }) => ready)
    )
  }

  /** Rows that wait, over all models. */
  get queueRows(): number {
    return this.#scheduler.queueRows
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

  /** Throws UnknownModel where the default model is not among those that serve. */
  checkDefault(): void {
    if (this.#options.defaultModel !== undefined) this.get(this.#options.defaultModel)
  }

  #defaultName(): string {
    const { defaultModel } = this.#options
    if (defaultModel !== undefined) return defaultModel
    const names = [...this.#catalog.keys()]
    if (names.length !== 1) throw new ModelRequired(names)
    return names[0] as string
  }

  async #close(): Promise<void> {
    const stopped = this.#scheduler.stop()
    await this.#reloads
    await stopped
    await Promise.all(this.#sources.map(source => source.close()))
  }

  async #reload(): Promise<ReloadReport> {
    if (this.#closing !== undefined) throw new Error('the models are being closed')
    const scan = await scanModels(this.#options.dir)
    const gathered: Gathered[] = []
    try {
      for (const source of this.#sources) gathered.push(await source.gather(scan))
      const report = reportOf(scan.broken, gathered)
      if (gathered.every(({ entries }) => entries.length === 0)) {
        throw new NoModels(nothingLoads(this.#options.dir, report.broken))
      }
      for (const each of gathered) await each.bringUp()
      for (const [index, source] of this.#sources.entries()) {
        this.#serving.set(source, (gathered[index] as Gathered).entries)
      }
      this.#broken = scan.broken
      this.#putInPlace(gathered, report)
      return report
    } catch (error) {
      await Promise.all(gathered.map(each => each.discard()))
      throw error
    }
  }

  async #putOneInPlace(source: ModelSource, gathered: Gathered | undefined): Promise<void> {
    if (gathered === undefined || this.#closing !== undefined) return
    this.#serving.set(source, gathered.entries)
    this.#putInPlace([gathered], gathered.report)
  }

  /** One after the other: each compares with what the one before has put in place. */
  #inTurn<T>(change: () => Promise<T>): Promise<T> {
    const turn = this.#reloads.then(change)
    this.#reloads = turn.catch(() => {})
    return turn
  }

  /** Has all serve that `#serving` names; `gathered` are those of it that have changed. */
  #putInPlace(gathered: readonly Gathered[], report: ReloadReport): void {
    const entries = [...this.#serving.values()].flat()
    const old = [...this.#catalog.values()].flat()
    this.#catalog = catalogOf(entries)
    this.#newest = [...this.#catalog.values()].map(versions => (versions[0] as Served).model)
    for (const { model } of old) if (!entries.some(each => each.model === model)) model.retire()
    for (const each of gathered) each.serve()
    this.#tell(report, entries)
  }

  #tell(report: ReloadReport, entries: readonly Served[]): void {
    const { log, onEvent } = this.#options
    for (const entry of entries) {
      if (!report.loaded.includes(nameOf(entry))) continue
      const { name, version, batching } = entry.model.info
      log.info({ model: name, version, batching }, 'model loaded')
      if (entry.unknownKeys.length > 0)
        log.warn({ model: name, keys: entry.unknownKeys }, 'model.json has fields that are not known')
    }
    for (const { name, version, reason } of report.broken) {
      log.error({ model: name, version, reason }, 'a model cannot be served')
    }
    for (const removed of report.removed) log.info({ model: removed }, 'model removed')
    onEvent?.({ type: 'reloaded', report })
  }

  #onBatch({ key, ...event }: BatchEvent): void {
    const { onEvent } = this.#options
    if (onEvent === undefined) return
    const [model = '', version = ''] = key.split(/[/#]/)
    onEvent({ type: 'batch', model, version, ...event })
  }
}

/** One report of all sources, and of what is wrong with the folder itself. */
const reportOf = (broken: readonly BrokenModel[], gathered: readonly Gathered[]): ReloadReport => ({
  loaded: gathered.flatMap(({ report }) => report.loaded),
  unchanged: gathered.flatMap(({ report }) => report.unchanged),
  removed: gathered.flatMap(({ report }) => report.removed),
  broken: [...broken, ...gathered.flatMap(({ report }) => report.broken)],
})

function catalogOf(entries: readonly Served[]): ReadonlyMap<string, readonly Served[]> {
  const catalog = new Map<string, Served[]>()
  const nameIn = ({ model }: Served): string => model.info.name
  const byName = [...entries].sort((a, b) => (nameIn(a) < nameIn(b) ? -1 : nameIn(a) > nameIn(b) ? 1 : 0))
  for (const entry of byName) catalog.set(nameIn(entry), [...(catalog.get(nameIn(entry)) ?? []), entry])
  for (const list of catalog.values()) list.sort((a, b) => newestFirst(a.model.info.version, b.model.info.version))
  return catalog
}

function nothingLoads(dir: string, broken: readonly BrokenModel[]): string {
  if (broken.length === 0) return `the folder of models '${dir}' holds none (<name>/<version>/model.onnx)`
  const reasons = broken.map(({ name, version, reason }) => `${name}${version ? `/${version}` : ''}: ${reason}`)
  return `no model of '${dir}' can be served; ${reasons.join('; ')}`
}
