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
