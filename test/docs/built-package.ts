import { readdirSync, readFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import ts from 'typescript'
import { root } from './markdown.js'

type Folder = { [name: string]: string | Folder }

/**
 * The package as it is now, ready to be imported by plain Node.js, as a `node_modules` for `t.testdir()`: no build
 * that may be stale, and no loader that makes each process start slowly.
 */
export function builtPackage(): Folder {
  const source = fileURLToPath(new URL('plugin/src/', root))
  const manifest = JSON.parse(readFileSync(new URL('plugin/package.json', root), 'utf8'))
  // There is no bundle for CommonJS here: `require` takes the modules that `import` takes.
  for (const [entry, conditions] of Object.entries<string | { default?: { default: string } }>(manifest.exports)) {
    if (typeof conditions !== 'string') manifest.exports[entry] = conditions.default?.default
  }
  return {
    'ml-api-rate-limiter': {
      'package.json': JSON.stringify(manifest),
      dist: { ...transpiled(source), 'index.cjs': "module.exports = require('./index.js').default\n" },
    },
  }
}

function transpiled(folder: string): Folder {
  const built: Folder = {}
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name)
    if (entry.isDirectory()) built[entry.name] = transpiled(path)
    else if (!entry.name.endsWith('.ts')) built[entry.name] = readFileSync(path, 'utf8')
    else if (!entry.name.endsWith('.d.ts')) {
      built[entry.name.replace(/\.ts$/, '.js')] = toJavaScript(readFileSync(path, 'utf8'))
    }
  }
  return built
}

export function toJavaScript(source: string): string {
  const compilerOptions = { target: ts.ScriptTarget.ES2023, module: ts.ModuleKind.ESNext, verbatimModuleSyntax: true }
  return ts.transpileModule(source, { compilerOptions }).outputText
}
