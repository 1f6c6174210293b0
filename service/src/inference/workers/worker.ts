/**
 * A worker: sessions of its own, one run at a time. It is a thread or a child process, whichever the pool started.
 *
 * Messages are handled strictly one after the other, since the runtime defers a run by a turn of the event loop: a
 * `close` in between would dispose of a session that is about to run.
 */
import { readlinkSync } from 'node:fs'
import { setPriority } from 'node:os'
import { parentPort, Worker, workerData } from 'node:worker_threads'
import { type InferenceSession, Tensor } from 'onnxruntime-node'
import { fromOrtType, toOrtType } from '../tensors/datatype.js'
import { type Answered, answersJson } from '../tensors/predictions.js'
import { isServed, type OrtValueMetadata } from '../tensors/signature.js'
import type { Datatype, NamedTensors, TensorData } from '../types.js'
import { type CheckTask, type SampleTask, selfCheck, warmUp } from './self-check.js'
import { createSession } from './session.js'
import type { SessionOptions } from './session-options.js'
import {
  type FromThread,
  type FromWorker,
  type SessionSource,
  type ToWorker,
  tensorsOf,
  type WireTensor,
} from './worker-messages.js'

/** Nice value of a worker: where cores are short, requests are read and refused before more is computed. */
const nice = 5

/** On Linux a thread has a priority of its own, under its own id; elsewhere only a process of its own steps back. */
function stepBack(): void {
  try {
    const thread = parentPort === null ? 0 : Number(readlinkSync('/proc/thread-self').split('/').at(-1))
    setPriority(thread, nice)
  } catch {
    // Not allowed, or not Linux: as before.
  }
}
stepBack()

/** A process must not outlive the service, which may end without a word. */
function endWithParent(): void {
  new Worker(new URL('./parent-watch.js', import.meta.url), { workerData: Number(process.env.ML_API_PARENT) }).unref()
  process.on('disconnect', () => process.exit())
}
if (parentPort === null) endWithParent()

const sessions = new Map<string, InferenceSession>()
/** Outputs of each model that can be served; none where all can. The runtime fails where others are asked for. */
const servedOutputs = new Map<string, readonly string[]>()
const described = new Map<string, Answered>()

const thread = parentPort
const post: (message: FromWorker, moved: ArrayBuffer[]) => void =
  // A service that has ended hears nothing more, and that is no error of its worker.
  thread === null ? message => process.send?.(message, undefined, undefined, () => {}) : postFromThread(workerData)

function postFromThread({ answers, sent }: FromThread): typeof post {
  return (message, moved) => {
    answers.postMessage(message, moved)
    Atomics.add(sent, 0, 1)
  }
}

async function handle(message: ToWorker): Promise<void> {
  switch (message[0]) {
    case 'load':
      return answer(message[1], () => load(message[1], message[2], message[3], message[4]))
    case 'run':
      return answer(message[1], () => run(message[1], message[2], message[3], message[4], message[5]))
    case 'check':
      return answer(message[1], () => check(message[1], message[2], message[3]))
    case 'warm':
      return answer(message[1], () => warm(message[1], message[2], message[3], message[4]))
    case 'unload':
      return unload(message[1])
    case 'describe':
      described.set(message[1], message[2])
      return
    case 'close':
      return close()
  }
}

async function answer(id: number, work: () => Promise<void>): Promise<void> {
  const start = performance.now()
  try {
    await work()
  } catch (error) {
    post(['failed', id, error instanceof Error ? error.message : String(error), performance.now() - start], [])
  }
}

async function load(id: number, key: string, source: SessionSource, options: SessionOptions): Promise<void> {
  const { session, warnings } = await createSession(source, options)
  sessions.set(key, session)
  const outputs = session.outputMetadata.map(plain)
  if (!outputs.every(isServed))
    servedOutputs.set(
      key,
      outputs.filter(isServed).map(({ name }) => name),
    )
  post(['loaded', id, session.inputMetadata.map(plain), outputs, warnings], [])
}

/** As the self-check and the first runs have it: nothing is sent. */
async function runTensors(key: string, inputs: NamedTensors): Promise<{ outputs: NamedTensors }> {
  const session = sessionOf(key)
  const feeds: Record<string, Tensor> = {}
  for (const [name, { datatype, shape, data }] of Object.entries(inputs)) feeds[name] = toOrt(datatype, shape, data)
  const wanted = servedOutputs.get(key)
  const results = wanted === undefined ? await session.run(feeds) : await session.run(feeds, wanted)
  return { outputs: tensorsOf(Object.entries(results).map(([name, tensor]) => fromOrt(name, tensor))) }
}

async function check(id: number, key: string, task: CheckTask): Promise<void> {
  const run = (inputs: NamedTensors) => runTensors(key, inputs)
  post(['checked', id, await selfCheck(task, { run, now: () => performance.now() })], [])
}

async function warm(id: number, key: string, task: SampleTask, maxRows: number): Promise<void> {
  await warmUp(task, maxRows, inputs => runTensors(key, inputs))
  post(['warmed', id], [])
}

async function unload(key: string): Promise<void> {
  const session = sessions.get(key)
  sessions.delete(key)
  servedOutputs.delete(key)
  described.delete(key)
  await session?.release().catch(() => {})
}

function sessionOf(key: string): InferenceSession {
  const session = sessions.get(key)
  if (session === undefined) throw new Error(`the worker has no model '${key}'`)
  return session
}

function plain(value: InferenceSession.ValueMetadata): OrtValueMetadata {
  return value.isTensor
    ? { name: value.name, isTensor: true, type: value.type, shape: [...value.shape] }
    : { name: value.name, isTensor: false }
}

async function run(
  id: number,
  key: string,
  inputs: readonly WireTensor[],
  outputs: readonly string[] | undefined,
  answerRows: readonly number[] | undefined,
): Promise<void> {
  const session = sessionOf(key)
  const feeds: Record<string, Tensor> = {}
  for (const [name, datatype, shape, data] of inputs) feeds[name] = toOrt(datatype, shape, data)
  const start = performance.now()
  const wanted = outputs ?? servedOutputs.get(key)
  const results = wanted === undefined ? await session.run(feeds) : await session.run(feeds, wanted)
  const computeMs = performance.now() - start
  const wires: WireTensor[] = []
  for (const name of session.outputNames) {
    const tensor = results[name]
    if (tensor !== undefined) wires.push(fromOrt(name, tensor))
  }
  const model = answerRows && described.get(key)
  const answers = model && answersJson(model, tensorsOf(wires), answerRows)
  if (answers !== undefined) {
    post(['done', id, computeMs, [], answers], [answers.bytes.buffer, answers.ends.buffer])
    return
  }
  const moved: ArrayBuffer[] = []
  for (const [, , , data] of wires) {
    if (!Array.isArray(data) && !moved.includes(data.buffer as ArrayBuffer)) moved.push(data.buffer as ArrayBuffer)
  }
  post(['done', id, computeMs, wires, undefined], moved)
}

function toOrt(datatype: Datatype, shape: readonly number[], data: TensorData): Tensor {
  if (datatype === 'FP16') {
    // On Node 24 and later the wrapper would make a Float16Array of the bits, which the binding cannot read
    // (microsoft/onnxruntime#26791): a uint16 tensor under another name passes on every line.
    const tensor = new Tensor('uint16', data as Uint16Array, shape)
    Object.defineProperty(tensor, 'type', { value: 'float16' })
    return tensor
  }
  return new Tensor(toOrtType(datatype), data as never, shape)
}

function fromOrt(name: string, tensor: Tensor): WireTensor {
  const datatype = fromOrtType(tensor.type)
  if (datatype === undefined) throw new Error(`output '${name}' has the datatype ${tensor.type}`)
  const data = tensor.data as TensorData
  if (datatype === 'FP16') {
    const { buffer, byteOffset, byteLength } = data as Uint16Array
    return [name, datatype, tensor.dims, new Uint16Array(buffer, byteOffset, byteLength / 2)]
  }
  return [name, datatype, tensor.dims, data]
}

async function close(): Promise<void> {
  for (const session of sessions.values()) await session.release()
  sessions.clear()
  if (thread === null) process.disconnect()
  else thread.close()
}

let last = Promise.resolve()
const receive = (message: ToWorker): void => {
  last = last.then(() => handle(message))
}

if (thread === null) {
  process.on('message', receive)
  // A terminal's Ctrl-C reaches the whole group; the service decides when its workers end.
  process.on('SIGINT', () => {})
  process.on('SIGTERM', () => {})
} else {
  thread.on('message', receive)
}
post(['up'], [])
