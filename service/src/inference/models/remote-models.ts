/** The models of the folder that run elsewhere: loaded, kept while their model.json stays the same, closed when gone. */

import { Batcher } from '../queue/batcher.js'
import { Backend } from '../remote/backend.js'
import { backendSettings } from '../remote/backend-json.js'
import { tellsLabels } from '../tensors/predictions.js'
import { rowLayout } from '../tensors/signature.js'
import { copyInputs } from '../tensors/stack.js'
import type { BrokenModel, ModelInfo } from '../types.js'
import { reasonOf, selfCheck } from '../workers/self-check.js'
import { readSettled, type Scan } from './model-files.js'
import { type ModelJson, parseModelJson } from './model-json.js'
import { batcherOptions } from './model-loader.js'
import { ServedModel } from './served-model.js'
import { type Gathered, type ModelSource, nameOf, type Served, type SourceOptions } from './source.js'

/** One remote model that serves. */
interface Entry extends Served {
  readonly name: string
  /** model.json as it was read. */
  readonly source: string
  readonly key: string
  readonly backend: Backend
}

type FoundJson = Scan['withoutVersion'][number]

export class RemoteModels implements ModelSource {
  /** Its models fail one by one, as their backends do; this process goes on. */
  readonly ready = true
  readonly #options: SourceOptions
  #serving: readonly Entry[] = []
  #incomplete = false
  readonly #retiring = new Set<Promise<void>>()

  constructor(options: SourceOptions) {
    this.#options = options
  }

  /** A backend may come up after this service. */
  get incomplete(): boolean {
    return this.#incomplete
  }

  async gather({ withoutVersion }: Scan): Promise<Gathered> {
    const entries: Entry[] = []
    const loaded: Entry[] = []
    const broken: BrokenModel[] = []
    await Promise.all(
      withoutVersion.map(async found => {
        const before = this.#serving.find(({ name }) => name === found.name)
        try {
          const entry = await this.#read(found, before)
          entries.push(entry)
          if (entry !== before) loaded.push(entry)
        } catch (error) {
          broken.push({ name: found.name, reason: reasonOf(error) })
          if (before !== undefined) entries.push(before)
        }
      }),
    )
    this.#incomplete = broken.length > 0
    return {
      entries,
      report: {
        loaded: loaded.map(nameOf),
        unchanged: entries.filter(entry => !loaded.includes(entry)).map(nameOf),
        removed: this.#serving.filter(({ name }) => !entries.some(each => each.name === name)).map(nameOf),
        broken,
      },
      bringUp: async () => {},
      serve: () => this.#serve(entries, loaded),
      discard: async () => {
        const inVain = loaded.filter(entry => !this.#serving.includes(entry))
        await Promise.all(inVain.map(({ backend }) => backend.close()))
      },
    }
  }

  async close(): Promise<void> {
    await Promise.all([...this.#retiring, ...this.#serving.map(({ backend }) => backend.close())])
  }

  async #read({ name, jsonFile }: FoundJson, before: Entry | undefined): Promise<Entry> {
    const source = (await readSettled(jsonFile)).bytes.toString('utf8')
    return source === before?.source ? before : loadRemote(name, source, this.#options)
  }

  #serve(entries: readonly Entry[], loaded: readonly Entry[]): void {
    const gone = this.#serving.filter(entry => !entries.includes(entry))
    this.#serving = entries
    for (const { model, backend } of loaded) {
      model.register()
      backend.serve()
    }
    for (const entry of gone) {
      const retirement = this.#retire(entry)
      this.#retiring.add(retirement)
      void retirement.finally(() => this.#retiring.delete(retirement))
    }
  }

  /** Ends what `entry` still runs, then its connections. */
  async #retire({ key, backend }: Entry): Promise<void> {
    const { scheduler } = this.#options
    await scheduler.whenIdle(key)
    scheduler.removeModel(key)
    await backend.close()
  }
}

/** Throws Error with the reason why the model cannot be served. */
async function loadRemote(name: string, source: string, options: SourceOptions): Promise<Entry> {
  const { json, unknown } = parseModelJson(source)
  if (json.backend === undefined) {
    throw new Error(
      `has a model.json but no version: put the model into ${name}/1/model.onnx, or name the 'backend' that runs it`,
    )
  }
  const { scheduler, log } = options
  const settings = backendSettings(name, json.backend)
  const backend = new Backend({ name, settings, scheduler, log })
  try {
    const { signature, platform, version: newest } = await backend.open()
    const version = settings.version ?? newest ?? '1'
    const key = options.nextKey(`${name}/${version}`)
    backend.key = key
    const check = await selfCheck(signature, {
      name,
      sample: json.sample,
      run: inputs =>
        backend.anyLane().run(key, copyInputs(inputs), undefined, { deadline: undefined, onAbandoned: undefined }),
      now: () => performance.now(),
      ...(json.batching === undefined ? {} : { batching: json.batching }),
      ...maxRowsOf(json, options),
    })
    const layout = rowLayout(signature)
    const batcher = new Batcher(batcherOptions(signature, layout, check.batching, options), check.serviceTime)
    const { sample, batching } = check
    const info: ModelInfo = {
      ...toldOf(json),
      name,
      version,
      ...signature,
      ...(platform === undefined ? {} : { platform }),
      sample,
      batching,
    }
    if (json.labels !== undefined && !tellsLabels({ ...signature, labels: json.labels })) {
      throw new Error(`model.json: 'labels' has ${json.labels.length} entries, and no output has as many values a row`)
    }
    const model = new ServedModel(info, {
      key,
      layout,
      batcher,
      scheduler,
      successor: () => options.successor(name, version),
      assertAvailable: () => backend.assertAvailable(),
    })
    return { name, source, unknownKeys: unknown, model, key, backend }
  } catch (error) {
    await backend.close()
    throw error
  }
}

const maxRowsOf = (json: ModelJson, { batchMaxRows }: SourceOptions): { maxRows?: number } => {
  const maxRows = json.maxBatchRows ?? batchMaxRows
  return maxRows === undefined ? {} : { maxRows }
}

/** What model.json says to people. */
function toldOf({ description, labels, testAccuracy, testRows, license, source }: ModelJson): Partial<ModelInfo> {
  return Object.fromEntries(
    Object.entries({ description, labels, testAccuracy, testRows, license, source }).filter(
      ([, value]) => value !== undefined && value !== '',
    ),
  )
}
