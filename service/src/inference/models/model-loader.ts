/** One version of a model on its way into the workers: tried in a process that serves nobody, and described. */

import { ModelBroken, RunFailed } from '../errors.js'
import { planImage } from '../images/image-plan.js'
import { inWords } from '../onnx/reasons.js'
import { Batcher, type BatcherOptions } from '../queue/batcher.js'
import { ServiceTime } from '../queue/service-time.js'
import { featuresFault } from '../tensors/columns.js'
import { isFloat, isInteger } from '../tensors/datatype.js'
import { tellsLabels } from '../tensors/predictions.js'
import { sampleBody } from '../tensors/request-schema.js'
import { describeSpec, type RowLayout, rowLayout, signatureOf } from '../tensors/signature.js'
import type { Batching, ModelInfo, Signature } from '../types.js'
import type { Host } from '../workers/host.js'
import type { PooledModel } from '../workers/pool.js'
import {
  type CheckTask,
  mostSampleValues,
  type SelfCheckResult,
  sampleValues,
  usualRows,
} from '../workers/self-check.js'
import type { SessionOptions } from '../workers/session-options.js'
import { assertUnchanged, type ModelFiles } from './model-files.js'
import { type ModelJson, toldOf } from './model-json.js'

export interface LoadOptions {
  /** The name of this version in the workers: never given twice, so that old and new can serve side by side. */
  readonly key: string
  readonly batchMaxRows: number | undefined
  readonly batchMaxDelayMs: number
  /** Workers there are. */
  readonly poolSize: number
  /** Milliseconds that a trial may take. */
  readonly trialTimeoutMs: number
}

export interface LoadedModel {
  readonly info: ModelInfo
  readonly layout: RowLayout
  readonly batcher: Batcher
  readonly pooled: PooledModel
  /** What is not as model.json asks for, in words. */
  readonly warnings: readonly string[]
}

/**
 * Loads a model into a host of its trial, runs the self-check there, and takes it out again. Throws Error with the reason
 * why the model cannot be served.
 */
export async function tryModel(files: ModelFiles, host: Host, options: LoadOptions): Promise<LoadedModel> {
  const { name, json, onnx, source } = files
  const { key } = options
  const session = sessionOptions(json, options.poolSize)
  try {
    const start = performance.now()
    const { inputs, outputs, warnings } = await host.load(key, source, session)
    const loadMs = performance.now() - start
    const unknownRanks = onnx.inputs.filter(({ rank }) => rank === undefined).map(each => each.name)
    const signature = signatureOf(inputs, outputs, new Set(unknownRanks))
    const labels = labelsFor(files, signature)
    const maxRows = json.maxBatchRows ?? options.batchMaxRows
    const task = checkTask(name, signature, json, maxRows, options.trialTimeoutMs)
    const check = json.selfCheck === false ? unchecked(json, signature, maxRows) : await host.check(key, task)
    const layout = rowLayout(signature)
    const { batching, size } = check
    const sample = { name, signature, size, ...(json.sample === undefined ? {} : { sample: json.sample }) }
    const info = describe(files, signature, labels, check)
    return {
      info,
      layout,
      batcher: new Batcher(batcherOptions(signature, layout, batching, options), serviceTimeOf(check), info),
      pooled: {
        key,
        source,
        session,
        workers: json.workers ?? Number.POSITIVE_INFINITY,
        loadMs,
        answered: answeredOf(info),
        sample,
        maxRows: batching.enabled ? batching.maxRows : 0,
        verify: () => assertUnchanged(files),
      },
      warnings:
        json.batching === true && !batching.enabled ? [...warnings, `no batching: ${batching.reason}`] : warnings,
    }
  } catch (error) {
    throw error instanceof RunFailed ? new ModelBroken(inWords(error.detail)) : error
  } finally {
    host.unload(key)
  }
}

function sessionOptions(json: ModelJson, poolSize: number): SessionOptions {
  const { session = {}, threads, workers } = json
  return { ...session, threads: session.threads ?? threads ?? threadsFor(workers, poolSize) }
}

/** The share of one of `workers`, where there are fewer than the pool has: so the model still has all cores. */
export const threadsFor = (workers: number | undefined, poolSize: number): number =>
  workers === undefined ? 1 : Math.max(1, Math.floor(poolSize / workers))

/** What the self-check needs of model.json. `budgetMs`: milliseconds that it may take. */
export function checkTask(
  name: string,
  signature: Signature,
  { sample, batching }: ModelJson,
  maxRows: number | undefined,
  budgetMs: number,
): CheckTask {
  return {
    name,
    signature,
    budgetMs,
    ...(sample === undefined ? {} : { sample }),
    ...(batching === undefined ? {} : { batching }),
    ...(maxRows === undefined ? {} : { maxRows }),
  }
}

/** What the self-check would have found, as far as it can be told without running the model. */
export function unchecked({ batching }: ModelJson, signature: Signature, maxRows: number | undefined): SelfCheckResult {
  const enabled = batching === true && rowLayout(signature) === 'dynamic'
  const reason =
    batching === true
      ? 'the inputs do not share one batch dimension that varies'
      : "not checked: model.json has 'selfCheck' false and no 'batching' true"
  return {
    batching: enabled ? { enabled, maxRows: maxRows ?? usualRows } : { enabled: false, reason },
    size: 2,
    timings: [],
  }
}

export function serviceTimeOf({ timings }: SelfCheckResult): ServiceTime {
  const serviceTime = new ServiceTime()
  for (const [rows, ms] of timings) serviceTime.observe(rows, ms)
  return serviceTime
}

/** A body that the model takes; without a row where one has too many values to be written for everybody. */
export function sampleOf(name: string, signature: Signature, { sample }: ModelJson, size: number): ModelInfo['sample'] {
  if (sample === undefined && sampleValues(signature, size) > mostSampleValues) return { model: name }
  return sampleBody({ ...signature, name }, sample, size)
}

export function answeredOf(info: ModelInfo): PooledModel['answered'] {
  const { name, version, inputs, outputs, labels, labelOutput, scoreOutput } = info
  return {
    name,
    version,
    inputs,
    outputs,
    ...(labels === undefined ? {} : { labels }),
    ...(labelOutput === undefined ? {} : { labelOutput }),
    ...(scoreOutput === undefined ? {} : { scoreOutput }),
  }
}

/** Labels that no output could tell are a mistake of model.json, and chance in the file's own metadata. */
function labelsFor({ labels, json }: ModelFiles, signature: Signature): readonly string[] | undefined {
  assertFits(json, signature)
  const { labelOutput, scoreOutput } = json
  const named = {
    ...(labelOutput === undefined ? {} : { labelOutput }),
    ...(scoreOutput === undefined ? {} : { scoreOutput }),
  }
  if (labels === undefined || tellsLabels({ ...signature, ...named, labels })) return labels
  if (json.labels === undefined) return undefined
  throw new ModelBroken(`model.json: 'labels' has ${labels.length} entries, and no output has as many values a row`)
}

/** Throws ModelBroken where model.json names outputs that are not there, or features or pictures that do not fit. */
export function assertFits(json: ModelJson, signature: Signature): void {
  const { labelOutput, scoreOutput, features, image, labels } = json
  const { outputs } = signature
  const plan = image && planImage(signature, image)
  const fault = typeof plan === 'string' ? plan : features && featuresFault({ ...signature, features })
  if (fault !== undefined) throw new ModelBroken(`model.json: ${fault}`)
  const names = outputs.map(({ name }) => name)
  for (const [key, value] of Object.entries({ labelOutput, scoreOutput })) {
    if (value === undefined || names.includes(value)) continue
    throw new ModelBroken(`model.json: '${key}' is '${value}'; the model has the outputs ${names.join(', ')}`)
  }
  const told = (name: string | undefined) => outputs.find(output => output.name === name)
  const [label, score] = [told(labelOutput), told(scoreOutput)]
  if (label !== undefined && label.datatype !== 'BYTES' && !isInteger(label.datatype)) {
    throw new ModelBroken(
      `model.json: 'labelOutput' is ${describeSpec(label)}; it takes an output of texts or integers`,
    )
  }
  if (score === undefined) return
  if (!isFloat(score.datatype) && !isInteger(score.datatype)) {
    throw new ModelBroken(`model.json: 'scoreOutput' is ${describeSpec(score)}; it takes an output of numbers`)
  }
  const classes = score.shape.at(-1)
  if (labels === undefined || typeof classes !== 'number' || classes === labels.length) return
  const message = `'labels' has ${labels.length} entries, and 'scoreOutput' is ${describeSpec(score)}`
  throw new ModelBroken(`model.json: ${message}`)
}

export function batcherOptions(
  signature: Signature,
  layout: RowLayout,
  batching: Batching,
  { batchMaxDelayMs }: Pick<LoadOptions, 'batchMaxDelayMs'>,
): BatcherOptions {
  const mode = batching.enabled ? 'shared' : layout === 'single' ? 'split' : 'alone'
  const maxRows = batching.enabled ? batching.maxRows : layout === 'single' ? 1 : Number.POSITIVE_INFINITY
  const shapesVary = signature.inputs.some(({ shape }) => shape.slice(1).some(each => typeof each === 'string'))
  return { mode, maxRows, maxDelayMs: batchMaxDelayMs, shapesVary }
}

function describe(
  { name, version, json, onnx }: ModelFiles,
  signature: Signature,
  labels: readonly string[] | undefined,
  { size, batching }: SelfCheckResult,
): ModelInfo {
  const { description = onnx.description } = json
  return {
    name,
    version,
    ...signature,
    ...toldOf({ ...json, description }),
    ...(labels === undefined ? {} : { labels }),
    sample: sampleOf(name, signature, json, size),
    batching,
  }
}
