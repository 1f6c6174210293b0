import { existsSync, readFileSync, realpathSync } from 'node:fs'
import { dirname, join, relative, sep } from 'node:path'

/**
 * The apps of this process that are open, by the program they belong to: two of them are two apps and not two
 * replicas. The process is what this state belongs to, so it stands at the level of the module.
 */
const open = new Map<string, Set<number>>()

export interface AppIdentity {
  /** Names the app: the same in every replica, another in every other app. */
  readonly name: string
  /** To be called when the app has closed. */
  release(): void
}

/**
 * What an app is called in Redis when nobody gave it a name space: its package, the script it was started with and,
 * where a process runs several apps, their order.
 */
export function identifyApp(): AppIdentity {
  const program = programName(process.argv[1], process.cwd())
  const taken = open.get(program) ?? new Set<number>()
  open.set(program, taken)
  let number = 0
  while (taken.has(number)) number++
  taken.add(number)
  return {
    name: number === 0 ? program : `${program}#${number}`,
    release: () => {
      taken.delete(number)
    },
  }
}

/** Package and script, as a path inside the package; a script that was installed (a runner) says nothing of the app. */
export function programName(script: string | undefined, cwd: string): string {
  const entry = script !== undefined && existsSync(script) ? realpathSync(script) : undefined
  const own = entry !== undefined && !entry.split(sep).includes('node_modules') ? entry : undefined
  const root = packageRoot(own === undefined ? cwd : dirname(own))
  const name = root === undefined ? '' : packageName(root)
  return `${name}/${own === undefined ? '' : relative(root ?? dirname(own), own)}`
}

function packageRoot(folder: string): string | undefined {
  if (existsSync(join(folder, 'package.json'))) return folder
  const parent = dirname(folder)
  return parent === folder ? undefined : packageRoot(parent)
}

function packageName(root: string): string {
  try {
    const { name } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { name?: unknown }
    return typeof name === 'string' ? name : ''
  } catch {
    return ''
  }
}
