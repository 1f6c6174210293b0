/** The models of the folder that run in workers here. */
import { elementBytes, elementCount } from '../tensors/datatype.js'
import { rowLayout, rowShape } from '../tensors/signature.js'
import type { BrokenModel, ModelInfo } from '../types.js'
import type { Pool, PooledModel } from '../workers/pool.js'
import { reasonOf } from '../workers/self-check.js'
import type { Trials } from '../workers/trials.js'
import {
  assertSameContent,
  ChangedMeanwhile,
  changedInPlace,
  isUnchanged,
  type ModelFiles,
  readModel,
} from './model-files.js'
import { routingOf } from './model-json.js'
import { type LoadedModel, tryModel } from './model-loader.js'
import { type FoundVersion, isLeftOut, type Scan } from './model-scan.js'
import { ServedModel, type Serving } from './served-model.js'
import type { ModelSource, Progress, Served, SourceOptions } from './source.js'

/** One version that serves, with what it was made from. */
interface Entry extends Served {
  readonly files: ModelFiles
  readonly pooled: PooledModel
}

/** How often a model is read again whose files change while it is loaded. */
const mostAttempts = 5
/** Models that are read at the same time: those read are held in memory until they were tried. */
const readAtOnce = 4
/** How often files that serve are looked at, in milliseconds. */
const watchMs = 5000

export class LocalModels implements ModelSource {
  broken: readonly BrokenModel[] = []
  serving: readonly Entry[] = []
  readonly #pool: Pool
  readonly #trials: Trials
  readonly #options: SourceOptions
  readonly #reading = new Turns(readAtOnce)
  /** Whether anything has served: later loads must keep nobody waiting. */
  #beside = false
  /** By the file: models that it belongs to, which it was changed under. */
  readonly #changedFiles = new Map<string, Entry>()
  readonly #watch: NodeJS.Timeout
  readonly #retiring = new Set<Promise<void>>()

  constructor(pool: Pool, trials: Trials, options: SourceOptions) {
    this.#pool = pool
    this.#trials = trials
    this.#options = options
    this.#watch = setInterval(() => void this.#look(), watchMs).unref()
  }

  get ready(): boolean {
    return this.serving.length === 0 || this.#pool.ready
  }

  get faults(): readonly string[] {
    const names = new Set([...this.#changedFiles.values()].map(({ files }) => files.name))
    return [...names].map(name => `a file of model '${name}' was changed in place while it serves`)
  }

  async update(scan: Scan, progress: Progress): ReturnType<ModelSource['update']> {
    const { found } = scan
    if (found.length > 0) await this.#pool.start()
    const outcomes = await Promise.all(
      found.map(async each => {
        const outcome = await this.#bring(each)
        progress.done(each.name)
        return outcome
      }),
    )
    await this.#trials.rest()
    this.#beside = this.serving.length > 0
    const names = (kind: Outcome['kind']) =>
      outcomes.flatMap((outcome, i) => (outcome.kind === kind ? [idOf(found[i] as FoundVersion)] : []))
    const broken = outcomes.flatMap(outcome => (outcome.kind === 'broken' ? [outcome.broken] : []))
    this.broken = [...this.broken.filter(each => isLeftOut(each, scan)), ...broken]
    return { loaded: names('loaded'), unchanged: names('unchanged'), broken }
  }

  gone(scan: Scan): readonly Entry[] {
    const { found, unreadable } = scan
    return this.serving.filter(
      ({ files }) =>
        !isLeftOut(files, scan) &&
        !found.some(each => idOf(each) === idOf(files)) &&
        !unreadable.has(files.name) &&
        !unreadable.has(idOf(files)),
    )
  }

  remove(gone: readonly Served[]): void {
    const entries = gone as readonly Entry[]
    this.serving = this.serving.filter(entry => !entries.includes(entry))
    this.#options.changed([])
    for (const entry of entries) this.#retire(entry)
  }

  async close(): Promise<void> {
    clearInterval(this.#watch)
    await Promise.all(this.#retiring)
    await this.#pool.close()
    await this.#trials.close()
  }

  /** Has one version of the folder serve, unless it does already. What fails leaves the one that serves as it is. */
  async #bring(found: FoundVersion): Promise<Outcome> {
    const before = this.serving.find(({ files }) => idOf(files) === idOf(found))
    try {
      if (before !== undefined && (await isUnchanged(found, before.files))) return { kind: 'unchanged' }
      for (let attempt = 1; ; attempt++) {
        const files = await this.#reading.run(() => readModel(found))
        if (before !== undefined && files.hash === before.files.hash) {
          this.#replace(before, { ...before, files, routing: routingOf(files.json) })
          return { kind: 'unchanged' }
        }
        try {
          this.#replace(before, await this.#load(files))
          return { kind: 'loaded' }
        } catch (error) {
          if (!(error instanceof ChangedMeanwhile) || attempt === mostAttempts) throw error
        }
      }
    } catch (error) {
      const { name, version } = found
      const broken = { name, version, reason: reasonOf(error) }
      this.#options.changed([], [broken])
      return { kind: 'broken', broken }
    }
  }

  async #load(files: ModelFiles): Promise<Entry> {
    const { name, version, unknownKeys } = files
    const { scheduler, log, batchMaxRows, batchMaxDelayMs, nextKey, successor, trialTimeoutMs } = this.#options
    const key = nextKey(`${name}/${version}`)
    const options = { key, batchMaxRows, batchMaxDelayMs, trialTimeoutMs, poolSize: this.#pool.size }
    const loaded = await this.#trials.run(host => {
      log.info({ model: name, version }, 'a model is being tried')
      return tryModel(files, host, options)
    })
    const { info, layout, batcher, pooled } = loaded
    await this.#pool.load(pooled, this.#beside)
    try {
      await assertSameContent(files)
    } catch (error) {
      await this.#pool.unload(key)
      throw error
    }
    scheduler.addModel(key, batcher)
    this.#warn(files, loaded)
    const serving: Serving = { key, layout, batcher, scheduler, successor: (...whose) => successor(name, ...whose) }
    return { files, pooled, unknownKeys, routing: routingOf(files.json), model: new ServedModel(info, serving) }
  }

  #warn({ onnx }: ModelFiles, { info, warnings }: LoadedModel): void {
    const { log, bodyLimit } = this.#options
    const { name, version } = info
    const leftOut = onnx.outputs.filter(output => !info.outputs.some(each => each.name === output.name))
    if (leftOut.length > 0) {
      const outputs = leftOut.map(each => `${each.name} (${each.kind})`)
      log.warn({ model: name, version, outputs }, 'outputs of a model that are not tensors are left out')
    }
    for (const warning of warnings)
      log.warn({ model: name, version, warning }, 'a model does not serve as model.json asks')
    const { json, binary } = rowBytes(info)
    if (json > bodyLimit) {
      const message = `a row has at least ${json} bytes as JSON and ${binary} as a binary tensor, and BODY_LIMIT is ${bodyLimit}`
      log.warn({ model: name, version, rowBytes: json, binaryRowBytes: binary, bodyLimit }, message)
    }
  }

  /** Puts `entry` where `before` was. */
  #replace(before: Entry | undefined, entry: Entry): void {
    this.serving =
      before === undefined ? [...this.serving, entry] : this.serving.map(each => (each === before ? entry : each))
    for (const [file, changed] of this.#changedFiles) if (changed === before) this.#changedFiles.delete(file)
    if (entry.model === before?.model) {
      this.#options.changed([])
      return
    }
    this.#options.changed([entry])
    if (before !== undefined) this.#retire(before)
  }

  /** Ends what a version still runs, then gives its memory back. */
  #retire({ pooled: { key } }: Entry): void {
    const { scheduler } = this.#options
    const retirement = scheduler.whenIdle(key).then(() => {
      scheduler.removeModel(key)
      return this.#pool.unload(key)
    })
    this.#retiring.add(retirement)
    void retirement.finally(() => this.#retiring.delete(retirement))
  }

  /** A file that is written to, and not replaced, is another one under sessions that read it, or will read it again. */
  async #look(): Promise<void> {
    for (const entry of this.serving) {
      const file = await changedInPlace(entry.files)
      if (file === undefined || this.#changedFiles.has(file) || !this.serving.includes(entry)) continue
      this.#changedFiles.set(file, entry)
      const { name, version } = entry.files
      this.#options.log.error(
        { model: name, version, file },
        'a file was changed in place while its model serves: replace files by rename, and reload',
      )
    }
  }
}

type Outcome = { readonly kind: 'loaded' | 'unchanged' } | { readonly kind: 'broken'; readonly broken: BrokenModel }

const idOf = ({ name, version }: FoundVersion): string => `${name}/${version}`

/** Least bytes of a request with one row: a digit and a comma a value, or the bytes of the tensors. */
function rowBytes(info: ModelInfo): { json: number; binary: number } {
  let json = 0
  let binary = 0
  const layout = rowLayout(info)
  for (const spec of info.inputs) {
    const row = rowShape(spec, layout).map(dimension => (typeof dimension === 'number' ? dimension : 1))
    const values = elementCount(row)
    json += values * 2
    binary += values * (elementBytes(spec.datatype) || 4)
  }
  return { json, binary }
}

/** So many at a time, the others in order. */
class Turns {
  #free: number
  readonly #waiting: (() => void)[] = []

  constructor(atOnce: number) {
    this.#free = atOnce
  }

  async run<T>(work: () => Promise<T>): Promise<T> {
    if (this.#free > 0) this.#free--
    else await new Promise<void>(resolve => this.#waiting.push(resolve))
    try {
      return await work()
    } finally {
      const next = this.#waiting.shift()
      if (next === undefined) this.#free++
      else next()
    }
  }
}
