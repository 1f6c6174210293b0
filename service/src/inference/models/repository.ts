/** The models of a folder: loaded, checked, warmed, swapped while they serve. */
import { availableParallelism } from 'node:os'
import { ModelRequired, NoModels, UnknownModel } from '../errors.js'
import { type BatchEvent, type Clock, Scheduler } from '../queue/scheduler.js'
import { gatherRemote, type RemoteEntry, type RemoteScan, retireRemote } from '../remote/remote-models.js'
import type { BrokenModel, Model, Models, ReloadReport } from '../types.js'
import type { Host } from '../workers/host.js'
import { type Log, Pool, type PooledModel } from '../workers/pool.js'
import { reasonOf } from '../workers/self-check.js'
import type { Isolation } from '../workers/worker-port.js'
import { type FoundVersion, isUnchanged, type ModelFiles, newestFirst, readModel, scanModels } from './model-files.js'
import { loadModel } from './model-loader.js'
import { ServedModel } from './served-model.js'

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
  /** Rows that may wait for one model. */
  readonly queueMaxRows?: number | undefined
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

/** A remote model that no backend served at load is tried again this often, in milliseconds. */
const remoteRetryMs = 5000

/** One version that serves. */
interface Served {
  readonly model: ServedModel
}

/** One that serves here, with what it was made from. */
interface Entry extends Served {
  readonly files: ModelFiles
  readonly pooled: PooledModel
}

/** What a load of the folder came to, before it is put in place. */
interface Candidates {
  readonly entries: Entry[]
  readonly report: { loaded: string[]; unchanged: string[]; removed: string[]; broken: BrokenModel[] }
  /** The first worker of the new generation; undefined when nothing changed. */
  first: Host | undefined
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
  /** Versions of each model, newest first. Replaced as a whole: a reader sees the old state or the new one. */
  #catalog: ReadonlyMap<string, readonly Served[]> = new Map()
  /** Of each model its newest version. */
  #newest: readonly Model[] = []
  #local: readonly Entry[] = []
  #remote: readonly RemoteEntry[] = []
  #remoteRetry: NodeJS.Timeout | undefined
  readonly #retiring = new Set<Promise<void>>()
  #broken: readonly BrokenModel[] = []
  #reloads: Promise<unknown> = Promise.resolve()
  #closing: Promise<void> | undefined
  #nextKey = 1

  constructor(options: ModelsOptions) {
    this.#options = options
    this.#scheduler = new Scheduler({
      clock,
      queueMaxRows: options.queueMaxRows ?? Number.POSITIVE_INFINITY,
      onBatch: event => this.#onBatch(event),
    })
    this.#pool = new Pool(this.#scheduler, {
      size: options.workers ?? availableParallelism(),
      isolation: options.isolation ?? 'thread',
      log: options.log,
      stuckAfterMs: options.stuckAfterMs ?? 60_000,
      onWorker: ({ type, ...rest }) => options.onEvent?.({ type: `worker-${type}`, ...rest }),
    })
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
    return this.#broken
  }

  get ready(): boolean {
    return this.#closing === undefined && this.#catalog.size > 0 && (this.#local.length === 0 || this.#pool.ready)
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
    // One after the other: each compares with what the one before has put in place.
    const reload = this.#reloads.then(() => this.#reload())
    this.#reloads = reload.catch(() => {})
    return reload
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
    clearTimeout(this.#remoteRetry)
    const stopped = this.#scheduler.stop()
    await this.#reloads
    await stopped
    await Promise.all([...this.#retiring, ...this.#remote.map(({ backend }) => backend.close())])
    await this.#pool.close()
  }

  async #reload(): Promise<ReloadReport> {
    if (this.#closing !== undefined) throw new Error('the models are being closed')
    const scan = await scanModels(this.#options.dir)
    const remote = await gatherRemote(scan.withoutVersion, this.#remote, this.#remoteOptions())
    try {
      const { entries, report, first } = await this.#gather(scan.found)
      report.broken.unshift(...scan.broken)
      this.#report(remote, report)
      if (entries.length + remote.entries.length === 0) {
        throw new NoModels(nothingLoads(this.#options.dir, report.broken))
      }
      await this.#putInPlace(entries, remote, first)
      this.#broken = report.broken
      this.#tell(report)
      return report
    } catch (error) {
      for (const { backend } of remote.loaded)
        if (!this.#remote.some(each => each.backend === backend)) void backend.close()
      throw error
    } finally {
      if (remote.broken.length > 0) this.#retryRemote()
    }
  }

  #remoteOptions() {
    const { log, batchMaxRows, batchMaxDelayMs } = this.#options
    return {
      scheduler: this.#scheduler,
      log,
      batchMaxRows,
      batchMaxDelayMs: batchMaxDelayMs ?? 0,
      nextKey: (name: string) => `${name}#${this.#nextKey++}`,
      successor: (name: string) => this.get(name),
    }
  }

  #report({ entries, loaded, broken }: RemoteScan, report: Candidates['report']): void {
    report.broken.push(...broken)
    report.loaded.push(...loaded.map(nameOf))
    report.unchanged.push(...entries.filter(each => this.#remote.includes(each)).map(nameOf))
    report.removed.push(...this.#remote.filter(({ name }) => !entries.some(each => each.name === name)).map(nameOf))
  }

  /** A backend may come up after this service. */
  #retryRemote(): void {
    clearTimeout(this.#remoteRetry)
    if (this.#closing !== undefined) return
    this.#remoteRetry = setTimeout(() => {
      this.reload().catch(error => this.#options.log.error({ err: error }, 'the models could not be read again'))
    }, remoteRetryMs).unref()
  }

  /** Reads and tries what changed; what fails leaves the version that serves as it is. */
  async #gather(found: readonly FoundVersion[]): Promise<Candidates> {
    const report: Candidates['report'] = { loaded: [], unchanged: [], removed: [], broken: [] }
    const candidates: Candidates = { entries: [], report, first: undefined }
    const changed: ModelFiles[] = []
    for (const each of found) {
      const serving = this.#local.find(({ files }) => sameVersion(each, files))
      const keep = (list?: string[]) => {
        if (serving === undefined) return
        candidates.entries.push(serving)
        list?.push(nameOf(serving))
      }
      try {
        const files =
          serving !== undefined && (await isUnchanged(each, serving.files)) ? serving.files : await readModel(each)
        if (files.hash === serving?.files.hash) keep(report.unchanged)
        else changed.push(files)
      } catch (error) {
        report.broken.push({ name: each.name, version: each.version, reason: reasonOf(error) })
        keep()
      }
    }
    const gone = this.#local.filter(({ files }) => !found.some(each => sameVersion(each, files)))
    report.removed.push(...gone.map(nameOf))
    if (changed.length > 0 || gone.length > 0) await this.#try(changed, candidates)
    return candidates
  }

  /** Loads what changed into a fresh worker, checks it there, and adds what else that worker will have to serve. */
  async #try(changed: readonly ModelFiles[], candidates: Candidates): Promise<void> {
    const { entries, report } = candidates
    let host = await this.#pool.open()
    try {
      for (const files of changed) {
        const loaded = host.keys.size
        try {
          const entry = await this.#load(files, host)
          entries.push(entry)
          report.loaded.push(nameOf(entry))
        } catch (error) {
          report.broken.push({ name: files.name, version: files.version, reason: reasonOf(error) })
          const serving = this.#local.find(each => sameVersion(each.files, files))
          if (serving !== undefined) entries.push(serving)
          // It has crashed its worker, along with the models loaded before it, or still lies in its memory.
          if (!host.lost && host.keys.size === loaded) continue
          await host.close()
          host = await this.#pool.open()
        }
      }
      if (entries.length === 0 || (this.#local.length > 0 && report.loaded.length + report.removed.length === 0)) {
        // Nothing came of it: what serves goes on as it is.
        await host.close()
        return
      }
      for (const { pooled } of entries) {
        if (host.keys.has(pooled.key)) continue
        await host.load(pooled.key, pooled.bytes, pooled.session)
        await pooled.warm(host)
      }
      candidates.first = host
    } catch (error) {
      await host.close()
      throw error
    }
  }

  async #load(files: ModelFiles, host: Host): Promise<Entry> {
    const { name, version } = files
    const { batchMaxRows, batchMaxDelayMs } = this.#options
    const key = `${name}/${version}#${this.#nextKey++}`
    const loaded = await loadModel(files, host, {
      key,
      batchMaxRows,
      batchMaxDelayMs: batchMaxDelayMs ?? 0,
      poolSize: this.#pool.size,
    })
    const successor = () =>
      this.get(name, this.#catalog.get(name)?.some(({ model }) => model.info.version === version) ? version : undefined)
    const serving = { key, layout: loaded.layout, batcher: loaded.batcher, scheduler: this.#scheduler, successor }
    return { files, pooled: loaded.pooled, model: new ServedModel(loaded.info, serving) }
  }

  async #putInPlace(entries: readonly Entry[], remote: RemoteScan, first: Host | undefined): Promise<void> {
    for (const { model } of [...entries, ...remote.loaded]) model.register()
    const swap = () => this.#swap(entries, remote)
    const pooled = entries.map(entry => entry.pooled)
    if (first === undefined) swap()
    else await this.#pool.replace(pooled, first, swap)
  }

  #swap(local: readonly Entry[], remote: RemoteScan): void {
    const old = [...this.#catalog.values()].flat()
    const serving: Served[] = [...local, ...remote.entries]
    this.#catalog = catalogOf(serving)
    this.#newest = [...this.#catalog.values()].map(entries => (entries[0] as Served).model)
    for (const { model } of old) if (!serving.some(each => each.model === model)) model.retire()
    const gone = this.#remote.filter(entry => !remote.entries.includes(entry))
    this.#local = local
    this.#remote = remote.entries
    for (const { backend } of remote.loaded) backend.serve()
    for (const entry of gone) {
      const retirement = retireRemote(entry, this.#scheduler)
      this.#retiring.add(retirement)
      void retirement.finally(() => this.#retiring.delete(retirement))
    }
  }

  #tell(report: ReloadReport): void {
    const { log, onEvent } = this.#options
    for (const { model, unknownKeys } of [
      ...this.#local.map(({ model, files }) => ({ model, unknownKeys: files.unknownKeys })),
      ...this.#remote,
    ]) {
      if (!report.loaded.includes(nameOf({ model }))) continue
      const { name, version, batching } = model.info
      log.info({ model: name, version, batching }, 'model loaded')
      if (unknownKeys.length > 0)
        log.warn({ model: name, keys: unknownKeys }, 'model.json has fields that are not known')
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

const nameOf = ({ model: { info } }: Served): string => `${info.name}/${info.version}`

const sameVersion = (a: FoundVersion, b: FoundVersion): boolean => a.name === b.name && a.version === b.version

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
