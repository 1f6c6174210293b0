/**
 * Hooks of Node's module loader. esbuild strips the types of what tests import; types are checked by `npm run typecheck`. What
 * it made is kept in node_modules/.cache, and used for as long as the source is the same.
 */
import { createHash } from 'node:crypto'
import { existsSync, mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { fileURLToPath } from 'node:url'
import { threadId } from 'node:worker_threads'

const require = createRequire(import.meta.url)
const folder = new URL('../../node_modules/.cache/ml-api-rate-limiter/typescript/', import.meta.url)
const { version } = require('esbuild/package.json')

const hashOf = (...texts) => createHash('sha1').update(texts.join('\0')).digest('hex')
const HASH_LENGTH = 40

const isTypeScript = url => url !== undefined && /^file:[^?]*\.ts(?:$|\?)/.test(url)

/** Sources import each other by the names that they have once they are built. */
export function resolve(specifier, context, next) {
  const { parentURL } = context
  if (/^\.\.?\/[^?]*\.js(?:$|\?)/.test(specifier) && isTypeScript(parentURL)) {
    const source = specifier.replace(/\.js(?=$|\?)/, '.ts')
    if (existsSync(new URL(source, parentURL))) return next(source, context)
  }
  return next(specifier, context)
}

export function load(url, context, next) {
  if (!isTypeScript(url)) return next(url, context)
  return { format: 'module', shortCircuit: true, source: strippedOf(fileURLToPath(url)) }
}

/** A file for each source: the hash of what it was made of, and what was made. */
function strippedOf(path) {
  const text = readFileSync(path, 'utf8')
  const hash = hashOf(version, path, text)
  const file = new URL(hashOf(path), folder)
  const kept = existsSync(file) ? readFileSync(file, 'utf8') : ''
  if (kept.startsWith(hash)) return kept.slice(HASH_LENGTH)
  const { code } = require('esbuild').transformSync(text, {
    loader: 'ts',
    format: 'esm',
    target: 'es2023',
    sourcemap: 'inline',
    sourcefile: path,
    sourcesContent: false,
  })
  mkdirSync(folder, { recursive: true })
  // Beside it and moved: other processes may read it.
  const fresh = new URL(`${file}.${process.pid}.${threadId}`)
  writeFileSync(fresh, hash + code)
  renameSync(fresh, file)
  return code
}
