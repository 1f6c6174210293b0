// Bundles the plugin into one file: each module would cost its part of a millisecond to import. The Lua files become
// strings, so that an app can be bundled too. Dependencies stay outside. Usage: node bundle.mjs ENTRY.ts OUT.js
import { readdirSync, readFileSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import { build } from 'esbuild'

const [entry, outfile] = process.argv.slice(2)

/** Replaces the module that reads the Lua files by one that holds their texts. */
const inlineLua = {
  name: 'inline-lua',
  setup(bundle) {
    bundle.onLoad({ filter: /[/\\]redis[/\\]lua\.ts$/ }, ({ path }) => {
      const folder = dirname(path)
      const files = readdirSync(folder).filter(file => file.endsWith('.lua'))
      const contents = files.map(file => {
        const text = readFileSync(join(folder, file), 'utf8')
        return `export const ${basename(file, '.lua')} = ${JSON.stringify(text)}`
      })
      return { contents: contents.join('\n'), loader: 'js' }
    })
  },
}

await build({
  entryPoints: [entry],
  outfile,
  allowOverwrite: true,
  bundle: true,
  packages: 'external',
  platform: 'node',
  format: 'esm',
  target: 'node20.19',
  sourcemap: true,
  // Sources lie in the package.
  sourcesContent: false,
  plugins: [inlineLua],
})
