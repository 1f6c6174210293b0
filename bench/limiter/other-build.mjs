import { execFileSync } from 'node:child_process'
import { existsSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { pathToFileURL } from 'node:url'
import Fastify from 'fastify'

const NAME = 'ml-api-rate-limiter'

/**
 * Another build of the plugin, to be measured beside this one.
 *
 * @param {string} folder a checkout, or the folder of the package in it
 * @returns {{ folder: string, entry: string, commit?: string }} throws where there is none, and says what is missing
 */
export function otherBuild(folder) {
  const found = [join(folder, 'plugin'), folder].map(each => resolve(each)).find(each => nameOf(each) === NAME)
  if (found === undefined) throw new Error(`'${folder}' is neither a checkout of ${NAME} nor the folder of its package`)
  const { exports } = JSON.parse(readFileSync(join(found, 'package.json'), 'utf8'))
  const main = exports['.'].default
  const entry = join(found, typeof main === 'string' ? main : main.default)
  if (!existsSync(entry)) throw new Error(`${entry} does not exist: run 'npm ci && npm run build' in that checkout`)
  return { folder: found, entry, commit: commitOf(found) }
}

/** @param {string} folder as for `otherBuild` */
export async function pluginOf(folder) {
  return (await import(pathToFileURL(otherBuild(folder).entry).href)).default
}

/** Options for another build, which may be older than `prefetch` and would refuse it. */
export async function fitting(plugin, options) {
  const app = Fastify()
  try {
    await app.register(plugin, { prefetch: false })
    return options
  } catch {
    const { prefetch: _, ...known } = options
    return known
  } finally {
    await app.close()
  }
}

function nameOf(folder) {
  try {
    return JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')).name
  } catch {
    return undefined
  }
}

/** Undefined outside a repository. */
function commitOf(folder) {
  try {
    const args = ['-C', folder, 'rev-parse', '--short', 'HEAD']
    return execFileSync('git', args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] }).trim()
  } catch {
    return undefined
  }
}
