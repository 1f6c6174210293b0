/** The files of one version: read whole, never half-written, and compared with what they were. */
import { createHash } from 'node:crypto'
import { type FileHandle, open, stat } from 'node:fs/promises'
import { join, normalize, sep } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { clip } from '../errors.js'
import { prepareModel } from '../onnx/edit.js'
import { type OnnxFile, readOnnx, unservable } from '../onnx/file.js'
import { labelsFromMetadata } from '../onnx/labels.js'
import type { SessionSource } from '../workers/worker-messages.js'
import { type ModelJson, parseModelJson } from './model-json.js'
import { cannotBeRead, type FoundVersion } from './model-scan.js'

/** A file as it was when it was read. */
interface Stamp {
  readonly path: string
  readonly size: number
  readonly mtimeMs: number
  /** Nanoseconds. Writing sets both, and the second one cannot be set back. */
  readonly times: string
  /** The file itself, whatever its name: another one where a file was replaced. */
  readonly inode: string
}

/** A stamp, with the SHA-256 of what was read. */
interface DigestedStamp extends Stamp {
  readonly digest: string
}

export interface ModelFiles extends FoundVersion {
  readonly stamps: readonly DigestedStamp[]
  /** Of everything that was read. */
  readonly hash: string
  readonly source: SessionSource
  readonly json: ModelJson
  readonly unknownKeys: readonly string[]
  readonly onnx: OnnxFile
  /** From model.json, a lifted ZipMap or the file's metadata, in this order. */
  readonly labels: readonly string[] | undefined
}

/** Changed less than this long ago, a file may still be in the writing. In milliseconds, as the next two. */
const settleMs = 1000
const pollMs = 100
const patienceMs = 10_000

/** Larger models are loaded by their path: their bytes would have to be kept here, and copied for each worker. */
const mostKeptBytes = 1 << 24
/** What protobuf can hold. */
const mostModelBytes = 0x7fff_ffff
/** Read and hashed in one turn of the event loop. */
const chunkBytes = 1 << 20

async function stampOf(path: string): Promise<Stamp> {
  const found = await stat(path, { bigint: true }).catch(error => {
    throw new Error(`${path} ${cannotBeRead(error)}`)
  })
  // To open a pipe may take for ever.
  if (!found.isFile() && !found.isDirectory()) throw new Error(`${path} is a device or a pipe, not a file`)
  const { size, mtimeMs, mtimeNs, ctimeNs, birthtimeNs, dev, ino } = found
  // A new file may get the inode of one that is gone.
  const inode = `${dev} ${ino} ${birthtimeNs}`
  return { path, size: Number(size), mtimeMs: Number(mtimeMs), times: `${mtimeNs} ${ctimeNs}`, inode }
}

const isSame = (a: Stamp, b: Stamp): boolean => a.size === b.size && a.times === b.times && a.inode === b.inode

/** Size and time of a file once it has stopped changing. Throws Error where it goes on changing. */
async function settled(path: string): Promise<Stamp> {
  const give = Date.now() + patienceMs
  let last = await stampOf(path)
  while (Math.abs(Date.now() - last.mtimeMs) < settleMs) {
    await delay(pollMs)
    const next = await stampOf(path)
    const same = isSame(next, last)
    last = next
    if (same) break
    if (Date.now() > give) throw new Error(`${path} is still being written`)
  }
  return last
}

interface Read {
  readonly stamp: Stamp
  readonly bytes: Buffer
  readonly digest: string
}

/** A file that did not change while it was read. Throws Error where it cannot be read. */
export function readSettled(path: string): Promise<Read> {
  return untilSettled(path, async (file, { size }) => {
    if (size > mostModelBytes) throw new Error(`${path} is larger than 2 GB: keep its weights in files beside it`)
    const bytes = Buffer.allocUnsafeSlow(size)
    return { bytes, digest: await readThrough(file, size, from => bytes.subarray(from, from + chunkBytes)) }
  })
}

/** The same of a file of any size, whose bytes nobody needs here. */
function digestSettled(path: string): Promise<Omit<Read, 'bytes'>> {
  const chunk = Buffer.allocUnsafeSlow(chunkBytes)
  return untilSettled(path, async (file, { size }) => ({ digest: await readThrough(file, size, () => chunk) }))
}

async function untilSettled<T>(
  path: string,
  read: (file: FileHandle, stamp: Stamp) => Promise<T>,
): Promise<T & { stamp: Stamp }> {
  const give = Date.now() + patienceMs
  for (;;) {
    const stamp = await settled(path)
    const file = await open(path).catch(error => {
      throw new Error(`${path} ${cannotBeRead(error)}`)
    })
    let result: T
    try {
      result = await read(file, stamp)
    } catch (error) {
      throw (error as NodeJS.ErrnoException).code === undefined ? error : new Error(`${path} ${cannotBeRead(error)}`)
    } finally {
      await file.close()
    }
    if (isSame(await settled(path), stamp)) return { ...result, stamp }
    if (Date.now() > give) throw new Error(`${path} is still being written`)
  }
}

/** Reads so many bytes to where `target` says, a chunk at a time, and gives their SHA-256. */
async function readThrough(file: FileHandle, size: number, target: (from: number) => Buffer): Promise<string> {
  const hash = createHash('sha256')
  for (let from = 0; from < size; ) {
    const { bytesRead, buffer } = await file.read(target(from), 0, Math.min(chunkBytes, size - from), from)
    // The file has become shorter, which the stamp will show.
    if (bytesRead === 0) break
    hash.update(buffer.subarray(0, bytesRead))
    from += bytesRead
  }
  return hash.digest('hex')
}

/** Whether the files that `known` was read from are still the same, by their sizes and times. */
export async function isUnchanged(found: FoundVersion, known: ModelFiles): Promise<boolean> {
  if (found.jsonFile !== known.jsonFile) return false
  return Promise.all(known.stamps.map(async stamp => isSame(await stampOf(stamp.path), stamp))).then(
    same => same.every(Boolean),
    () => false,
  )
}

/** Whether sessions read the files themselves, now and when they are made again. */
const readsFiles = (source: SessionSource): boolean => !('bytes' in source) || source.folder !== undefined

/** Rejects with ChangedMeanwhile where sessions would read other files than those that were read here. */
export async function assertUnchanged({ source, stamps }: ModelFiles): Promise<void> {
  if (!readsFiles(source)) return
  for (const stamp of stamps) {
    if (!isSame(await stampOf(stamp.path), stamp)) throw new ChangedMeanwhile(stamp.path)
  }
}

/**
 * The same by the bytes: for once sessions are made, which have read the files by themselves. A file that is mapped into
 * a writer's memory may change before its times do.
 */
export async function assertSameContent(files: ModelFiles): Promise<void> {
  if (!readsFiles(files.source)) return
  await assertUnchanged(files)
  for (const { path, digest } of files.stamps) {
    if ((await digestSettled(path)).digest !== digest) throw new ChangedMeanwhile(path)
  }
}

/** A file was written while the model was loaded: it is to be read again. */
export class ChangedMeanwhile extends Error {
  constructor(path: string) {
    super(`${path} has changed since it was read`)
  }
}

/** Stamps of files that were touched and not changed, by the stamp of when they were read. */
const touched = new WeakMap<DigestedStamp, Stamp>()

/** The first file that sessions read and that was written to, and not replaced, since it was read. */
export async function changedInPlace({ source, stamps, jsonFile }: ModelFiles): Promise<string | undefined> {
  if (!readsFiles(source)) return undefined
  for (const stamp of stamps) {
    if (stamp.path === jsonFile) continue
    const now = await stampOf(stamp.path).catch(() => undefined)
    if (now === undefined || now.inode !== stamp.inode || isSame(now, touched.get(stamp) ?? stamp)) continue
    if (now.size !== stamp.size) return stamp.path
    const read = await digestSettled(stamp.path).catch(() => undefined)
    if (read === undefined || read.stamp.inode !== stamp.inode) continue
    if (read.digest !== stamp.digest) return stamp.path
    touched.set(stamp, read.stamp)
  }
  return undefined
}

/** Reads one version. Throws Error with the reason why it cannot be served. */
export async function readModel(found: FoundVersion): Promise<ModelFiles> {
  const text = found.jsonFile === undefined ? undefined : await readSettled(found.jsonFile)
  const { json, unknown } = text === undefined ? { json: {}, unknown: [] } : parseModelJson(text.bytes.toString('utf8'))
  if (json.backend !== undefined) throw new Error("has both a 'backend' in model.json and a model.onnx: keep one")
  const path = join(found.folder, 'model.onnx')
  const model = await readSettled(path)
  const onnx = readOnnx(model.bytes)
  const stamps = [...(text === undefined ? [] : [digested(text)]), digested(model)]
  const hash = createHash('sha256').update(`${JSON.stringify(withoutRouting(json))} ${model.digest}`)
  for (const location of onnx.externalFiles) {
    const weights = await weightsAt(besideModel(found.folder, location))
    stamps.push(digested(weights))
    hash.update(` ${location} ${weights.digest}`)
  }
  const prepared = prepareModel(model.bytes)
  const graph = readOnnx(prepared.bytes)
  const refusal = unservable(graph)
  if (refusal !== undefined) throw new Error(refusal)
  return {
    ...found,
    stamps,
    hash: hash.digest('hex'),
    source: sourceOf(found, path, onnx, prepared.bytes, prepared.bytes !== model.bytes),
    json,
    unknownKeys: unknown,
    onnx: { ...onnx, inputs: graph.inputs, outputs: graph.outputs },
    labels: json.labels ?? prepared.labels ?? labelsFromMetadata(onnx.metadata),
  }
}

const digested = ({ stamp, digest }: Omit<Read, 'bytes'>): DigestedStamp => ({ ...stamp, digest })

/** What sessions and answers depend on: a split may change without anything being loaded again. */
const withoutRouting = (json: ModelJson): ModelJson =>
  Object.fromEntries(Object.entries(json).filter(([key]) => !['defaultVersion', 'split', 'shadow'].includes(key)))

async function weightsAt(path: string): Promise<Omit<Read, 'bytes'>> {
  try {
    return await digestSettled(path)
  } catch (error) {
    throw new Error(`its weights: ${(error as Error).message}`)
  }
}

/** What the sessions are made from: the file itself, unless it is small or had to be edited. */
function sourceOf(
  { folder }: FoundVersion,
  path: string,
  { externalFiles }: OnnxFile,
  bytes: Uint8Array,
  isEdited: boolean,
): SessionSource {
  const hasWeights = externalFiles.length > 0
  if (!isEdited && (hasWeights || bytes.length > mostKeptBytes)) return { path }
  return { bytes: shareable(bytes), ...(hasWeights ? { folder } : {}) }
}

/** A model names its weights' files itself: they stay in its folder. */
function besideModel(folder: string, location: string): string {
  const path = normalize(join(folder, location))
  if (location.includes('\0')) throw new Error('its weights are in a file whose name has a byte 0')
  if (location === '' || !path.startsWith(normalize(folder) + sep)) {
    throw new Error(`its weights are in '${clip(location)}', outside of its folder`)
  }
  return path
}

function shareable(bytes: Uint8Array): Uint8Array {
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
  shared.set(bytes)
  return shared
}
