import { readFileSync, realpathSync } from 'node:fs'
import { createRequire } from 'node:module'
import { dirname, join, relative, sep } from 'node:path'

/**
 * What an app is called in Redis when nobody gave it a name space: the name of its package and the path of its script
 * inside the package. Every replica comes to the same name, wherever it is installed, and so does an app that is built
 * again in the same process. Without the name of a package it is the path of the script.
 *
 * `script`: what the process was started with, as in `process.argv[1]`. One that was installed (a runner) says nothing
 * of the app, whose package is then that of `cwd`.
 */
export function programName(script: string | undefined, cwd: string): string {
  const own = ownScript(script, cwd)
  const folder = own === undefined ? cwd : dirname(own)
  const root = namedPackage(folder)
  if (root === undefined) return own ?? folder
  return `${root.name}/${own === undefined ? '' : relative(root.folder, own)}`
}

/** The file that a path stands for, as `node` finds it: with its extension, or the main file of a folder. */
function ownScript(script: string | undefined, cwd: string): string | undefined {
  if (script === undefined) return undefined
  try {
    const file = realpathSync(createRequire(join(cwd, 'any.js')).resolve(script))
    return file.split(sep).includes('node_modules') ? undefined : file
  } catch {
    return undefined
  }
}

/** The next package.json upwards that has a name: some only say how files are to be read. */
function namedPackage(folder: string): { readonly folder: string; readonly name: string } | undefined {
  try {
    const { name } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { name?: unknown }
    if (typeof name === 'string' && name !== '') return { folder, name }
  } catch {
    // No package, or one that cannot be read.
  }
  const parent = dirname(folder)
  return parent === folder ? undefined : namedPackage(parent)
}

/** A place among the apps of one program in this process. */
export interface Claim {
  /** The server of the app; apps that are built around one server are one app. */
  readonly server: object
}

/**
 * The apps of this process that are open, by program and number. The process is what this state belongs to, so it stands
 * at the level of the module.
 */
const open = new Map<string, Map<number, Set<Claim>>>()

/**
 * The name of an app in Redis when nobody gave it a name space: its program and, where several apps of it are open in
 * this process, their order. The name is settled when it is first asked for, that is with the first request. So an app
 * that is built again while the old one is still open has the same name, unless both serve at the same time.
 */
export class AppName {
  readonly #program: string
  readonly #claim: Claim
  #number: number
  #name: string | undefined

  constructor(program: string, server: object) {
    this.#program = program
    this.#claim = { server }
    this.#number = this.#take()
  }

  get name(): string {
    if (this.#name === undefined) {
      this.release()
      this.#number = this.#take()
      this.#name = this.#number === 0 ? this.#program : `${this.#program}#${this.#number}`
    }
    return this.#name
  }

  /** To be called when the app has closed. */
  release(): void {
    open.get(this.#program)?.get(this.#number)?.delete(this.#claim)
  }

  /** The lowest number that nobody has, or an app of the same server. */
  #take(): number {
    const numbers = open.get(this.#program) ?? new Map<number, Set<Claim>>()
    open.set(this.#program, numbers)
    let number = 0
    while ([...(numbers.get(number) ?? [])].some(({ server }) => server !== this.#claim.server)) number++
    numbers.set(number, (numbers.get(number) ?? new Set()).add(this.#claim))
    return number
  }
}
