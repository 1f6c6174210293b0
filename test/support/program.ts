/** Programs that tests need besides Node: from the PATH, else from Debian's packages, which only root can install. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'

/** Path of the first of these programs that is there, or comes with the package; undefined where none is to be had. */
export function findProgram(names: readonly string[], debianPackage: string): string | undefined {
  return onPath(names) ?? (install(debianPackage) ? onPath(names) : undefined)
}

function onPath(names: readonly string[]): string | undefined {
  for (const folder of (process.env.PATH ?? '').split(delimiter).filter(Boolean)) {
    for (const name of names) {
      const file = join(folder, name)
      try {
        accessSync(file, constants.X_OK)
        return file
      } catch {}
    }
  }
  return undefined
}

function install(debianPackage: string): boolean {
  if (process.getuid?.() !== 0) return false
  // RUNLEVEL: the package must not start a service of its own.
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive', RUNLEVEL: '1' }
  const apt = (...args: string[]) => spawnSync('apt-get', args, { env }).status === 0
  const once = () => apt('install', '-y', '--no-install-recommends', debianPackage)
  return once() || (apt('update') && once())
}
