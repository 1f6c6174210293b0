/**
 * The models of the folder that run elsewhere: opened, kept while their model.json stays the same, closed when gone. One
 * that cannot be opened, or has changed at its backend, is opened again by what its model.json said when it was read: the
 * folder is read only when somebody asks for a reload.
 */

import { ModelBroken } from '../errors.js'
import { Batcher } from '../queue/batcher.js'
import type { Backend } from '../remote/backend.js'
import { backendSettings } from '../remote/backend-json.js'
import { tellsLabels } from '../tensors/predictions.js'
import { rowLayout } from '../tensors/signature.js'
import { copyInputs } from '../tensors/stack.js'
import type { BrokenModel, ModelInfo } from '../types.js'
import { reasonOf, selfCheck } from '../workers/self-check.js'
import { readSettled } from './model-files.js'
import { parseModelJson, routingOf, toldOf } from './model-json.js'
import { assertFits, batcherOptions, checkTask, sampleOf, serviceTimeOf, unchecked } from './model-loader.js'
import { isLeftOut, type Scan } from './model-scan.js'
import { ServedModel } from './served-model.js'
import { type ModelSource, nameOf, type Progress, type Served, type SourceOptions } from './source.js'

/** Milliseconds until what could not be opened is tried again: the first time, doubled each time, and at most. */
const retryMs = 1000
const mostRetryMs = 30_000

/** One remote model that serves. */
interface Entry extends Served {
  readonly name: string
  /** model.json as it was read. */
  readonly source: string
  readonly key: string
  readonly backend: Backend
}

/** One that is to be opened by this model.json, again and again until it can be. */
interface Pending {
  readonly name: string
  readonly source: string
  reason: string
  attempts: number
  timer?: NodeJS.Timeout
}

type FoundJson = Scan['withoutVersion'][number]

export class RemoteModels implements ModelSource {
  serving: readonly Entry[] = []
  readonly faults: readonly string[] = []
  readonly #options: SourceOptions
  /** What is wrong with files: only another file helps. */
  #faults: readonly BrokenModel[] = []
  #pending: readonly Pending[] = []
  #closing = false
  /** Attempts and retirements under way. */
  readonly #busy = new Set<Promise<void>>()

  constructor(options: SourceOptions) {
    this.#options = options
  }

  /** Its models fail one by one, as their backends do; this process goes on. */
  get ready(): boolean {
    return true
  }

  get broken(): readonly BrokenModel[] {
    return [...this.#faults, ...this.#pending.map(({ name, reason }) => ({ name, reason }))]
  }

  async update(scan: Scan, progress: Progress): ReturnType<ModelSource['update']> {
    const { withoutVersion } = scan
    const atStart = this.#pending.filter(each => !isLeftOut(each, scan))
    const loaded: Entry[] = []
    const unchanged: Entry[] = []
    const faults: BrokenModel[] = []
    const pending: Pending[] = []
    await Promise.all(
      withoutVersion.map(async found => {
        const before = this.serving.find(({ name }) => name === found.name)
        try {
          const source = await readSource(found)
          const entry = await this.#open(found.name, source, before, pending)
          if (entry === before) {
            if (entry !== undefined) unchanged.push(entry)
          } else if (entry !== undefined) {
            loaded.push(entry)
            this.#place(entry)
          }
        } catch (error) {
          faults.push({ name: found.name, reason: reasonOf(error) })
        }
        progress.done(found.name)
      }),
    )
    this.#faults = [...this.#faults.filter(each => isLeftOut(each, scan)), ...faults]
    // Meanwhile some may have been opened after all, and others have changed at their backends.
    const left = pending.filter(each => !atStart.includes(each) || this.#pending.includes(each))
    const added = this.#pending.filter(each => !atStart.includes(each))
    for (const each of atStart) if (!left.includes(each)) clearTimeout(each.timer)
    this.#pending = [...left, ...added]
    for (const each of left) if (each.timer === undefined) this.#tryLater(each)
    const broken = [...faults, ...left.map(({ name, reason }) => ({ name, reason }))]
    this.#options.changed([], broken)
    return { loaded: loaded.map(nameOf), unchanged: unchanged.map(nameOf), broken }
  }

  gone(scan: Scan): readonly Entry[] {
    const { withoutVersion, unreadable } = scan
    const isThere = ({ name }: Entry) => withoutVersion.some(each => each.name === name) || unreadable.has(name)
    return this.serving.filter(entry => !isLeftOut(entry, scan) && !isThere(entry))
  }

  remove(gone: readonly Served[]): void {
    const entries = gone as readonly Entry[]
    this.serving = this.serving.filter(entry => !entries.includes(entry))
    this.#options.changed([])
    for (const entry of entries) this.#follow(this.#retire(entry))
  }

  async close(): Promise<void> {
    this.#closing = true
    for (const { timer } of this.#pending) clearTimeout(timer)
    await Promise.all(this.#busy)
    await Promise.all(this.serving.map(({ backend }) => backend.close()))
  }

  /** What serves from now on for this model.json; what is to be tried again joins `pending`. Throws what only another file helps against. */
  async #open(name: string, source: string, before: Entry | undefined, pending: Pending[]): Promise<Entry | undefined> {
    const known = this.#pending.find(each => each.name === name && each.source === source)
    if (source === before?.source) {
      if (known !== undefined) pending.push(known)
      return before
    }
    try {
      return await this.#load(name, source)
    } catch (error) {
      if (error instanceof ModelBroken) throw error
      const attempts = (known?.attempts ?? 0) + 1
      pending.push({ name, source, reason: reasonOf(error), attempts })
      return before
    }
  }

  /** Has an entry serve in place of the one of its name. */
  #place(entry: Entry): void {
    const before = this.serving.find(({ name }) => name === entry.name)
    this.serving = [...this.serving.filter(each => each !== before), entry]
    entry.model.register()
    entry.backend.serve()
    this.#options.changed([entry])
    if (before !== undefined) this.#follow(this.#retire(before))
  }

  /** The model is another one now, wherever it can be reached. */
  #reopen(name: string, source: string): void {
    if (this.#closing || this.#pending.some(each => each.name === name)) return
    if (!this.serving.some(each => each.name === name && each.source === source)) return
    const pending = { name, source, reason: 'the model at its backend has changed', attempts: 0 }
    this.#pending = [...this.#pending, pending]
    this.#follow(this.#try(pending))
  }

  #tryLater(pending: Pending): void {
    const ms = Math.min(retryMs * 2 ** (pending.attempts - 1), mostRetryMs)
    // Not all replicas at once.
    pending.timer = setTimeout(() => this.#follow(this.#try(pending)), ms * (0.75 + Math.random() / 2)).unref()
  }

  /** Opens it, and puts it in place unless a reload has said otherwise meanwhile. */
  async #try(pending: Pending): Promise<void> {
    const { name, source } = pending
    let entry: Entry
    try {
      entry = await this.#load(name, source)
    } catch (error) {
      if (!this.#isDue(pending)) return
      const reason = reasonOf(error)
      if (reason !== pending.reason) this.#options.log.error({ model: name, reason }, 'a model cannot be served')
      pending.reason = reason
      pending.attempts++
      this.#tryLater(pending)
      return
    }
    if (!this.#isDue(pending)) {
      await entry.backend.close()
      return
    }
    this.#pending = this.#pending.filter(each => each !== pending)
    this.#place(entry)
  }

  #isDue(pending: Pending): boolean {
    return !this.#closing && this.#pending.includes(pending)
  }

  /** Ends what `entry` still runs, then its connections. */
  async #retire({ key, backend }: Entry): Promise<void> {
    const { scheduler } = this.#options
    await scheduler.whenIdle(key)
    scheduler.removeModel(key)
    await backend.close()
  }

  #follow(work: Promise<void>): void {
    this.#busy.add(work)
    void work.finally(() => this.#busy.delete(work))
  }

  /** Throws ModelBroken for what is wrong with model.json itself, Error for what may be another time. */
  async #load(name: string, source: string): Promise<Entry> {
    const { json, unknown } = readJson(name, source)
    const { scheduler, log, runTimeoutMs, nextKey, successor } = this.#options
    const settings = backendSettings(name, json.backend)
    // Loaded with the first remote model.
    const { Backend } = await import('../remote/backend.js')
    const backend = new Backend({
      name,
      settings,
      scheduler,
      log,
      runTimeoutMs,
      onChanged: () => this.#reopen(name, source),
    })
    try {
      const { signature, platform, version: newest } = await backend.open()
      const version = settings.version ?? newest ?? '1'
      const key = nextKey(`${name}/${version}`)
      backend.key = key
      assertFits(json, signature)
      const maxRows = json.maxBatchRows ?? this.#options.batchMaxRows
      const task = checkTask(name, signature, json, maxRows, this.#options.trialTimeoutMs)
      const check =
        json.selfCheck === false
          ? unchecked(json, signature, maxRows)
          : await selfCheck(task, {
              run: inputs =>
                backend
                  .anyLane()
                  .run(key, copyInputs(inputs), undefined, { deadline: undefined, onAbandoned: undefined }),
              now: () => performance.now(),
            })
      const layout = rowLayout(signature)
      const { batching } = check
      const info: ModelInfo = {
        ...toldOf(json),
        name,
        version,
        ...signature,
        ...(platform === undefined ? {} : { platform }),
        sample: sampleOf(name, signature, json, check.size),
        batching,
      }
      const batcher = new Batcher(
        batcherOptions(signature, layout, batching, this.#options),
        serviceTimeOf(check),
        info,
      )
      if (json.labels !== undefined && !tellsLabels({ ...info, labels: json.labels })) {
        const count = json.labels.length
        throw new ModelBroken(`model.json: 'labels' has ${count} entries, and no output has as many values a row`)
      }
      const model = new ServedModel(info, {
        key,
        layout,
        batcher,
        scheduler,
        successor: (...whose) => successor(name, ...whose),
        assertAvailable: () => backend.assertAvailable(),
      })
      return { name, source, unknownKeys: unknown, routing: routingOf(json), model, key, backend }
    } catch (error) {
      await backend.close()
      throw error
    }
  }
}

async function readSource({ jsonFile }: FoundJson): Promise<string> {
  return (await readSettled(jsonFile)).bytes.toString('utf8')
}

/** Throws ModelBroken. */
function readJson(name: string, source: string) {
  let read: ReturnType<typeof parseModelJson>
  try {
    read = parseModelJson(source)
  } catch (error) {
    throw new ModelBroken(reasonOf(error))
  }
  const { json, unknown } = read
  if (json.backend !== undefined) return { json: { ...json, backend: json.backend }, unknown }
  throw new ModelBroken(
    `has a model.json but no version: put the model into ${name}/1/model.onnx, or name the 'backend' that runs it`,
  )
}
