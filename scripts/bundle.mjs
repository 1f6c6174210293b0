// Builds what `exports` of a package names: each entry whose source is given there, once for `import` and once for `require`.
// All sources go into one CommonJS file, because each module would cost its part of a millisecond to load, and because
// the state of the package (counts, presence) is then one, however and through whichever entry it is loaded. The entries
// only hand its parts on. Lua files become strings, so that an app can be bundled too. Dependencies stay outside.
//
// To add an entry, add it to `exports` of the package, as the others are. It needs nothing here.
// Usage, after tsc has written the declarations to dist: node bundle.mjs (in the folder of the package)
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, join, resolve } from 'node:path'
import { build } from 'esbuild'
import { requireTypes } from './require-types.mjs'

const SOURCE = 'ml-api-rate-limiter:source'
const BUNDLE = 'bundle.cjs'

const { exports } = JSON.parse(readFileSync('package.json', 'utf8'))
const entries = Object.values(exports).flatMap(entry => (entry[SOURCE] === undefined ? [] : [entry[SOURCE]]))
const names = entries.map(source => basename(source, '.ts'))

/** Replaces the module that reads the Lua files by one that holds their texts. */
const inlineLua = {
  name: 'inline-lua',
  setup(bundle) {
    bundle.onLoad({ filter: /[/\\]redis[/\\]lua\.ts$/ }, ({ path }) => {
      const folder = dirname(path)
      const files = readdirSync(folder).filter(file => file.endsWith('.lua'))
      const contents = files.map(file => {
        // Redis needs no comments, and each process sends the text at least once.
        const text = readFileSync(join(folder, file), 'utf8').replace(/^[ \t]*(?:--.*)?\n/gm, '')
        return `export const ${basename(file, '.lua')} = ${JSON.stringify(text)}`
      })
      return { contents: contents.join('\n'), loader: 'js' }
    })
  },
}

/** Comments are in the sources, which lie in the package. Lines stay where they are, for the source map. */
const noComments = {
  name: 'no-comments',
  setup(bundle) {
    bundle.onLoad({ filter: /\.ts$/ }, ({ path }) => {
      const text = readFileSync(path, 'utf8')
      const comments = /^[ \t]*(?:\/\*\*(?:(?!\*\/)[\s\S])*\*\/|\/\/.*)$/gm
      return { contents: text.replace(comments, comment => comment.replace(/[^\n]/g, '')), loader: 'ts' }
    })
  },
}

await build({
  stdin: {
    contents: entries.map((source, index) => `export * as ${names[index]} from '${source}'`).join('\n'),
    resolveDir: '.',
  },
  outfile: `dist/${BUNDLE}`,
  bundle: true,
  packages: 'external',
  platform: 'node',
  format: 'cjs',
  target: 'node20.19',
  // Names and lines stay, so that a stack trace can be read.
  minifySyntax: true,
  sourcemap: true,
  // Sources lie in the package.
  sourcesContent: false,
  plugins: [inlineLua, noComments],
})

const built = createRequire(import.meta.url)(resolve('dist', BUNDLE))
for (const name of names) {
  const { default: main, ...others } = built[name]
  const values = Object.keys(others)
  // For `require`, an entry with a default export is that export, and its other exports are properties.
  const required = main === undefined ? name : `Object.assign(${name}.default, ${name})`
  writeFileSync(`dist/${name}.cjs`, `const { ${name} } = require('./${BUNDLE}')\nmodule.exports = ${required}\n`)
  // The small file is imported and not the bundle: Node.js looks through what it imports for the names of exports.
  const imported = [
    `import ${name} from './${name}.cjs'`,
    ...(main === undefined ? [] : [`export default ${name}`]),
    `export const { ${values.join(', ')} } = ${name}`,
  ]
  writeFileSync(`dist/${name}.js`, `${imported.join('\n')}\n`)
  writeFileSync(`dist/${name}.d.cts`, requireTypes(`dist/${name}.d.ts`, { values, hasDefault: main !== undefined }))
}

/** Declarations that an entry leads to. Nobody can import the others, so npm leaves them out of the package. */
const reached = new Set()
function reach(file) {
  if (reached.has(file)) return
  reached.add(file)
  for (const [, path] of readFileSync(join('dist', file), 'utf8').matchAll(
    /(?:from|import\() ?['"](\.[^'"]*)\.js['"]/g,
  ))
    reach(join(dirname(file), `${path}.d.ts`))
}
for (const name of names) reach(`${name}.d.ts`)
const declarations = readdirSync('dist', { recursive: true }).filter(file => file.endsWith('.d.ts'))
const unreached = declarations.filter(file => !reached.has(file)).map(file => `/${file.replaceAll('\\', '/')}\n`)
writeFileSync('dist/.npmignore', unreached.join(''))
