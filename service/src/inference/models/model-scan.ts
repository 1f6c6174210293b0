/** What the folder of models holds: versions, what cannot be read, and what looks like a model in the wrong place. */
import { lstat, readdir, stat } from 'node:fs/promises'
import { join, resolve } from 'node:path'
import { NoModels } from '../errors.js'
import type { BrokenModel } from '../types.js'

export interface FoundVersion {
  readonly name: string
  readonly version: string
  readonly folder: string
  /** `model.json` of the model, where there is one. */
  readonly jsonFile: string | undefined
}

export interface Scan {
  /** The name of the one model that was looked for; undefined: all. */
  readonly only?: string | undefined
  readonly found: readonly FoundVersion[]
  /** Folders with a model.json and no version: models that run elsewhere, or versions forgotten. */
  readonly withoutVersion: readonly { readonly name: string; readonly jsonFile: string }[]
  readonly broken: readonly BrokenModel[]
  /** Models, or versions as `name/version`, that may be there: what serves of them goes on. */
  readonly unreadable: ReadonlySet<string>
  /** What is in a place where it does not serve, in words. */
  readonly odd: readonly string[]
}

/** Whether a scan says nothing of this model: it stays as it is. */
export const isLeftOut = ({ name }: { readonly name: string }, { only }: Pick<Scan, 'only'>): boolean =>
  only !== undefined && name !== only

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]*$/
const versionPattern = /^[1-9][0-9]{0,17}$/
const modelPattern = /\.(?:onnx|ort)$/i

/** Whole numbers of any length, the highest first. */
export const newestFirst = (a: string, b: string): number => b.length - a.length || (a < b ? 1 : a > b ? -1 : 0)

/** Versions in `<dir>/<name>/<version>/model.onnx`. Throws NoModels where the folder itself cannot be read. */
export async function scanModels(dir: string): Promise<Scan> {
  let names: readonly string[]
  try {
    names = await readdir(dir)
  } catch (error) {
    throw new NoModels(
      `the folder of models '${resolve(dir)}' ${cannotBeRead(error)}; MODELS_DIR names one with <name>/<version>/model.onnx in it`,
    )
  }
  const scanner = new Scanner()
  // Sorted, so that the order of loading does not depend on the file system.
  for (const name of [...names].sort()) await scanner.look(dir, name)
  return scanner
}

/** Why a file or folder cannot be read, as the rest of a sentence. */
export function cannotBeRead(error: unknown): string {
  const { code, message } = error as NodeJS.ErrnoException
  const why: Readonly<Record<string, string>> = {
    ENOENT: 'does not exist',
    ENOTDIR: 'is not a folder',
    EISDIR: 'is a folder, not a file',
    EACCES: 'cannot be read: permission denied',
    EPERM: 'cannot be read: permission denied',
    EIO: 'cannot be read: the device or network volume fails (EIO)',
    ELOOP: 'cannot be read: its links lead in a circle',
    ENAMETOOLONG: 'does not exist: its name is too long',
    ESTALE: 'cannot be read: the network volume has lost it (ESTALE)',
  }
  return why[code ?? ''] ?? `cannot be read: ${code ?? message}`
}

type Kind = 'file' | 'folder' | 'none'

/** Throws where something is there that cannot be looked at, also where it is a link to nothing. */
async function kindOf(path: string): Promise<Kind> {
  try {
    const found = await stat(path)
    return found.isDirectory() ? 'folder' : found.isFile() ? 'file' : 'none'
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException
    if (code === 'ENOTDIR') return 'none'
    if (code !== 'ENOENT') throw error
    const link = await lstat(path).catch(() => undefined)
    if (link === undefined) return 'none'
    throw Object.assign(new Error('is a link to nothing'), { code: 'a link to nothing' })
  }
}

class Scanner implements Scan {
  readonly found: FoundVersion[] = []
  readonly withoutVersion: { name: string; jsonFile: string }[] = []
  readonly broken: BrokenModel[] = []
  readonly unreadable = new Set<string>()
  readonly odd: string[] = []

  async look(dir: string, name: string): Promise<void> {
    const folder = join(dir, name)
    if (modelPattern.test(name)) this.odd.push(`${folder} does not serve: a model is in <name>/<version>/model.onnx`)
    // Kubernetes and others keep what is not for us under such names.
    if (name.startsWith('.')) return
    try {
      if ((await kindOf(folder)) === 'folder') await this.#lookInto(folder, name)
    } catch (error) {
      this.#cannotRead(name, undefined, error, folder)
    }
  }

  async #lookInto(folder: string, name: string): Promise<void> {
    const entries = (await readdir(folder)).sort()
    const jsonFile = (await kindOf(join(folder, 'model.json'))) === 'file' ? join(folder, 'model.json') : undefined
    const versions: string[] = []
    let unreadable = false
    for (const entry of entries) {
      const inside = join(folder, entry)
      if (modelPattern.test(entry))
        this.odd.push(`${inside} does not serve: it has no folder of its version, such as 1`)
      if (entry.startsWith('.') || entry === 'model.json') continue
      try {
        if (await this.#isVersion(inside, entry)) versions.push(entry)
      } catch (error) {
        unreadable = true
        this.#cannotRead(name, entry, error, inside)
      }
    }
    if (versions.length === 0 && jsonFile === undefined) return
    if (!namePattern.test(name)) {
      this.broken.push({ name, reason: 'the name of a model is letters, digits, dots, dashes and underscores' })
    } else if (versions.length === 0) {
      if (jsonFile !== undefined && !unreadable) this.withoutVersion.push({ name, jsonFile })
    } else {
      for (const version of versions.sort(newestFirst)) {
        this.found.push({ name, version, folder: join(folder, version), jsonFile })
      }
    }
  }

  async #isVersion(folder: string, name: string): Promise<boolean> {
    const isNumber = versionPattern.test(name)
    const file = join(folder, 'model.onnx')
    const kind = await kindOf(folder)
    if (kind !== 'folder') return false
    const what = await kindOf(file)
    const hasModel = what === 'file'
    if (isNumber && hasModel) return true
    if (hasModel) this.odd.push(`${folder} does not serve: a version is a whole number from 1, without zeros before it`)
    else if (isNumber) {
      const other = (await readdir(folder)).find(entry => modelPattern.test(entry))
      if (other !== undefined) {
        const why = other.endsWith('.ort')
          ? 'models in the ORT format are not served, ONNX is'
          : other !== 'model.onnx'
            ? 'its name must be model.onnx'
            : `it is ${what === 'folder' ? 'a folder' : 'a device or a pipe'}, not a file`
        this.odd.push(`${join(folder, other)} does not serve: ${why}`)
      }
    }
    return false
  }

  #cannotRead(name: string, version: string | undefined, error: unknown, path: string): void {
    const { path: at = path } = error as NodeJS.ErrnoException
    this.unreadable.add(version === undefined ? name : `${name}/${version}`)
    this.broken.push({ name, ...(version === undefined ? {} : { version }), reason: `${at} ${cannotBeRead(error)}` })
  }
}
