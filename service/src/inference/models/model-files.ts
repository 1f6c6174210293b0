/** The folder of models: which versions are there, and their bytes, never half-written ones. */
import { createHash } from 'node:crypto'
import { readdir, readFile, stat } from 'node:fs/promises'
import { join, normalize, sep } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { NoModels } from '../errors.js'
import { prepareModel } from '../onnx/edit.js'
import { type OnnxFile, readOnnx, unservable } from '../onnx/file.js'
import { labelsFromMetadata } from '../onnx/labels.js'
import type { BrokenModel } from '../types.js'
import { type ModelJson, parseModelJson } from './model-json.js'

export interface FoundVersion {
  readonly name: string
  readonly version: string
  readonly folder: string
  /** `model.json` of the model, where there is one. */
  readonly jsonFile: string | undefined
}

export interface ModelFiles extends FoundVersion {
  /** Sizes and times of the files that were read: the quick way to see that nothing changed. */
  readonly stamp: string
  /** Of everything that was read: the sure way. */
  readonly hash: string
  /** The model as it is to be loaded, in memory that threads can share. */
  readonly bytes: Uint8Array
  readonly json: ModelJson
  readonly unknownKeys: readonly string[]
  readonly onnx: OnnxFile
  /** From model.json, a lifted ZipMap or the file's metadata, in this order. */
  readonly labels: readonly string[] | undefined
}

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]*$/
const versionPattern = /^[1-9][0-9]{0,17}$/

export interface Scan {
  readonly found: readonly FoundVersion[]
  /** Folders with a model.json and no version: models that run elsewhere, or versions forgotten. */
  readonly withoutVersion: readonly { readonly name: string; readonly jsonFile: string }[]
  readonly broken: readonly BrokenModel[]
}

/**
 * Versions in `<dir>/<name>/<version>/model.onnx`. Folders without one are nobody's business, unless a model.json says
 * that a model was meant. Throws NoModels where the folder cannot be read.
 */
export async function scanModels(dir: string): Promise<Scan> {
  const found: FoundVersion[] = []
  const withoutVersion: { name: string; jsonFile: string }[] = []
  const broken: BrokenModel[] = []
  for (const name of await folderNames(dir)) {
    const folder = join(dir, name)
    const jsonFile = (await isFile(join(folder, 'model.json'))) ? join(folder, 'model.json') : undefined
    const versions = await versionsOf(folder)
    if (versions.length === 0 && jsonFile === undefined) continue
    if (!namePattern.test(name)) {
      broken.push({ name, reason: 'the name of a model is letters, digits, dots, dashes and underscores' })
    } else if (versions.length === 0) {
      if (jsonFile !== undefined) withoutVersion.push({ name, jsonFile })
    } else {
      for (const version of versions) found.push({ name, version, folder: join(folder, version), jsonFile })
    }
  }
  return { found, withoutVersion, broken }
}

async function folderNames(dir: string): Promise<string[]> {
  try {
    // Sorted, so that the order of loading does not hang on the file system.
    return (await readdir(dir)).sort()
  } catch (error) {
    const code = (error as NodeJS.ErrnoException).code
    const why =
      code === 'ENOENT' ? 'does not exist' : code === 'ENOTDIR' ? 'is not a folder' : `cannot be read (${code})`
    throw new NoModels(`the folder of models '${dir}' ${why}`)
  }
}

async function versionsOf(folder: string): Promise<string[]> {
  const names = await readdir(folder).catch(() => [])
  const versions: string[] = []
  for (const name of names) {
    if (versionPattern.test(name) && (await isFile(join(folder, name, 'model.onnx')))) versions.push(name)
  }
  return versions.sort(newestFirst)
}

/** Whole numbers of any length, the highest first. */
export const newestFirst = (a: string, b: string): number => b.length - a.length || (a < b ? 1 : a > b ? -1 : 0)

async function isFile(path: string): Promise<boolean> {
  return (await stat(path).catch(() => undefined))?.isFile() ?? false
}

/** Changed less than this long ago, a file may still be in the writing. */
const settleMs = 1000
const pollMs = 100
const patienceMs = 10_000

/** Size and time of a file once it has stopped changing. Throws Error where it goes on changing. */
async function settled(path: string): Promise<string> {
  const give = Date.now() + patienceMs
  let last = await stat(path)
  while (Math.abs(Date.now() - last.mtimeMs) < settleMs) {
    await delay(pollMs)
    const next = await stat(path)
    const same = next.size === last.size && next.mtimeMs === last.mtimeMs
    last = next
    if (same) break
    if (Date.now() > give) throw new Error(`${path} is still being written`)
  }
  return `${path} ${last.size} ${last.mtimeMs}`
}

/** A file that did not change while it was read. */
export async function readSettled(path: string): Promise<{ stamp: string; bytes: Buffer }> {
  for (;;) {
    const stamp = await settled(path)
    const bytes = await readFile(path)
    if ((await settled(path)) === stamp) return { stamp, bytes }
  }
}

/** Whether the files that `known` was read from are still the same, by their sizes and times. */
export async function isUnchanged(found: FoundVersion, known: ModelFiles): Promise<boolean> {
  if (found.jsonFile !== known.jsonFile) return false
  const stamps = await Promise.all(pathsOf(found, known.onnx.externalFiles).map(path => settled(path).catch(() => '')))
  return stamps.join('\n') === known.stamp
}

function pathsOf(found: FoundVersion, external: readonly string[]): string[] {
  return [
    ...(found.jsonFile === undefined ? [] : [found.jsonFile]),
    join(found.folder, 'model.onnx'),
    ...external.map(location => join(found.folder, location)),
  ]
}

/** Reads one version. Throws Error with the reason why it cannot be served. */
export async function readModel(found: FoundVersion): Promise<ModelFiles> {
  const text = found.jsonFile === undefined ? undefined : await readSettled(found.jsonFile)
  const { json, unknown } = text === undefined ? { json: {}, unknown: [] } : parseModelJson(text.bytes.toString('utf8'))
  if (json.backend !== undefined) throw new Error("has both a 'backend' in model.json and a model.onnx: keep one")
  const model = await readSettled(join(found.folder, 'model.onnx'))
  const onnx = readOnnx(model.bytes)
  const external = new Map<string, Uint8Array>()
  const stamps = [...(text === undefined ? [] : [text.stamp]), model.stamp]
  const hash = createHash('sha256')
    .update(text?.bytes ?? '')
    .update('\0')
    .update(model.bytes)
  for (const location of onnx.externalFiles) {
    const file = await readSettled(besideModel(found.folder, location))
    external.set(location, file.bytes)
    stamps.push(file.stamp)
    hash.update(file.bytes)
  }
  const prepared = prepareModel(model.bytes, external)
  const refusal = unservable(readOnnx(prepared.bytes))
  if (refusal !== undefined) throw new Error(refusal)
  return {
    ...found,
    stamp: stamps.join('\n'),
    hash: hash.digest('hex'),
    bytes: shareable(prepared.bytes),
    json,
    unknownKeys: unknown,
    onnx: { ...onnx, ...pickGraph(readOnnx(prepared.bytes)) },
    labels: json.labels ?? prepared.labels ?? labelsFromMetadata(onnx.metadata),
  }
}

const pickGraph = ({ inputs, outputs }: OnnxFile) => ({ inputs, outputs })

/** A model names its weights' files itself: they stay in its folder. */
function besideModel(folder: string, location: string): string {
  const path = normalize(join(folder, location))
  if (location === '' || !path.startsWith(normalize(folder) + sep)) {
    throw new Error(`its weights lie in '${location}', outside of its folder`)
  }
  return path
}

function shareable(bytes: Uint8Array): Uint8Array {
  const shared = new Uint8Array(new SharedArrayBuffer(bytes.length))
  shared.set(bytes)
  return shared
}
