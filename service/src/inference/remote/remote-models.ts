/** The models of the folder that run elsewhere: loaded, kept while their model.json stays the same, closed when gone. */

import { readSettled } from '../models/model-files.js'
import { type ModelJson, parseModelJson } from '../models/model-json.js'
import { batcherOptions } from '../models/model-loader.js'
import { ServedModel } from '../models/served-model.js'
import { Batcher } from '../queue/batcher.js'
import type { Scheduler } from '../queue/scheduler.js'
import { tellsLabels } from '../tensors/predictions.js'
import { rowLayout } from '../tensors/signature.js'
import { copyInputs } from '../tensors/stack.js'
import type { BrokenModel, Model, ModelInfo } from '../types.js'
import type { Log } from '../workers/pool.js'
import { reasonOf, selfCheck } from '../workers/self-check.js'
import { Backend } from './backend.js'
import { backendSettings } from './backend-json.js'

/** One remote model that serves. */
export interface RemoteEntry {
  readonly name: string
  readonly version: string
  /** model.json as it was read. */
  readonly source: string
  readonly unknownKeys: readonly string[]
  readonly model: ServedModel
  readonly key: string
  readonly backend: Backend
}

export interface RemoteOptions {
  readonly scheduler: Scheduler
  readonly log: Log
  readonly batchMaxRows: number | undefined
  readonly batchMaxDelayMs: number
  /** A name for one loaded version, never given twice. */
  readonly nextKey: (name: string) => string
  /** The model now in the place of that one. */
  readonly successor: (name: string) => Model
}

export interface RemoteScan {
  readonly entries: readonly RemoteEntry[]
  readonly loaded: readonly RemoteEntry[]
  readonly broken: readonly BrokenModel[]
}

interface Found {
  readonly name: string
  readonly jsonFile: string
}

export async function gatherRemote(
  found: readonly Found[],
  serving: readonly RemoteEntry[],
  options: RemoteOptions,
): Promise<RemoteScan> {
  const entries: RemoteEntry[] = []
  const loaded: RemoteEntry[] = []
  const broken: BrokenModel[] = []
  await Promise.all(
    found.map(async ({ name, jsonFile }) => {
      const before = serving.find(each => each.name === name)
      try {
        const source = (await readSettled(jsonFile)).bytes.toString('utf8')
        if (source === before?.source) {
          entries.push(before)
          return
        }
        const entry = await loadRemote(name, source, options)
        entries.push(entry)
        loaded.push(entry)
      } catch (error) {
        broken.push({ name, reason: reasonOf(error) })
        if (before !== undefined) entries.push(before)
      }
    }),
  )
  return { entries, loaded, broken }
}

/** Throws Error with the reason why the model cannot be served. */
async function loadRemote(name: string, source: string, options: RemoteOptions): Promise<RemoteEntry> {
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
      successor: () => options.successor(name),
      assertAvailable: () => backend.assertAvailable(),
    })
    return { name, version, source, unknownKeys: unknown, model, key, backend }
  } catch (error) {
    await backend.close()
    throw error
  }
}

const maxRowsOf = (json: ModelJson, { batchMaxRows }: RemoteOptions): { maxRows?: number } => {
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

/** Ends what `entry` still runs, then its connections. */
export async function retireRemote(entry: RemoteEntry, scheduler: Scheduler): Promise<void> {
  await scheduler.whenIdle(entry.key)
  scheduler.removeModel(entry.key)
  await entry.backend.close()
}
