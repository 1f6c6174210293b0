/** Releases of the plugin as npm would install them: built and packed from this repository, and started side by side. */
import { execFileSync, fork } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readdirSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { childEnv } from '../support/child-env.js'

const root = resolve('.')
/** Inside the repository: a package finds its dependencies in node_modules of the folders above. */
const cache = join(root, 'node_modules', '.cache', 'releases')

const run = (cwd: string, file: string, ...args: string[]) =>
  execFileSync('env', ['-u', 'NODE_OPTIONS', file, ...args], {
    cwd,
    env: childEnv({ npm_config_loglevel: 'error' }),
    encoding: 'utf8',
    stdio: 'pipe',
  })

/** Whether the commit is in this clone. */
export function hasCommit(commit: string): boolean {
  try {
    run(root, 'git', 'cat-file', '-e', `${commit}^{commit}`)
    return true
  } catch {
    return false
  }
}

/** The folder of the installed package of a commit, or of what is here. Built once for each commit. */
export function installed(commit: string | undefined): string {
  if (commit === undefined) return unpacked(join(root, 'plugin'), join(cache, `present-${process.pid}`))
  const folder = join(cache, run(root, 'git', 'rev-parse', commit).trim())
  const at = join(folder, 'node_modules', 'ml-api-rate-limiter')
  if (existsSync(join(at, 'package.json'))) return at
  rmSync(folder, { recursive: true, force: true })
  const source = join(folder, 'source')
  mkdirSync(source, { recursive: true })
  const archive = join(folder, 'source.tar')
  run(root, 'git', 'archive', '--output', archive, commit)
  run(source, 'tar', '-xf', archive)
  run(join(source, 'plugin'), 'npm', 'run', 'build')
  const unpackedAt = unpacked(join(source, 'plugin'), folder)
  rmSync(source, { recursive: true, force: true })
  return unpackedAt
}

export function removePresent(): void {
  rmSync(join(cache, `present-${process.pid}`), { recursive: true, force: true })
}

/** Packs the package that is built in a folder, and unpacks it as npm does. */
function unpacked(from: string, folder: string): string {
  const at = join(folder, 'node_modules', 'ml-api-rate-limiter')
  mkdirSync(at, { recursive: true })
  run(from, 'npm', 'pack', '--pack-destination', folder)
  const tarball = readdirSync(folder).find(name => name.endsWith('.tgz')) as string
  run(at, 'tar', '-xzf', join(folder, tarball), '--strip-components=1')
  return at
}

export interface Answered {
  readonly status: number
  /** Milliseconds since 1970, by the clock of the replica. */
  readonly sent: number
  readonly answered: number
}

export interface Replica {
  /** Sends so many requests at once. `path`: `/`, `/refunded`, `/held` until `/end` is asked. */
  ask(key: string, count: number, path?: string): Promise<readonly Answered[]>
}

/** Starts an app with the release in a folder; it ends with the test. */
export async function startReplica(t: Test, folder: string, options: object): Promise<Replica> {
  const program = fileURLToPath(new URL('replica.mjs', import.meta.url))
  const child = fork(program, [folder, JSON.stringify(options)], { env: childEnv(), execArgv: [] })
  t.teardown(() => {
    child.kill('SIGKILL')
  })
  const waiting = new Map<number, (answers: readonly Answered[]) => void>()
  child.on('message', ({ id, answers }: { id: number; answers: readonly Answered[] }) => waiting.get(id)?.(answers))
  const ready = once(child, 'message')
  const failed = once(child, 'exit').then(([code]) => {
    throw new Error(`a replica of ${folder} ended with ${code}`)
  })
  failed.catch(() => {})
  await Promise.race([ready, failed])
  let last = 0
  return {
    ask: (key, count, path = '/') => {
      const id = ++last
      const answers = new Promise<readonly Answered[]>(resolve => waiting.set(id, resolve))
      child.send({ id, path, key, count })
      return Promise.race([answers, failed])
    },
  }
}
