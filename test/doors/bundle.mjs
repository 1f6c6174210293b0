// Bundles an app with one of the tools: node bundle.mjs KIND ENTRY OUTFILE, in the folder of the app.

import { writeFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { basename, dirname, resolve } from 'node:path'

const tool = createRequire(new URL('tools/package.json', import.meta.url))
const [kind, entry, out] = process.argv.slice(2)
const outfile = resolve(out)
const ESM_BANNER = "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url)"

const esbuild = format =>
  tool('esbuild').build({
    entryPoints: [entry],
    outfile,
    bundle: true,
    minify: true,
    platform: 'node',
    format,
    banner: format === 'esm' ? { js: ESM_BANNER } : {},
  })

async function rollup(format) {
  const bundle = await tool('rollup').rollup({
    input: entry,
    plugins: [
      tool('@rollup/plugin-node-resolve').nodeResolve({ preferBuiltins: true }),
      tool('@rollup/plugin-commonjs')(),
      tool('@rollup/plugin-json')(),
    ],
    onwarn: () => {},
  })
  await bundle.write({ file: outfile, format, inlineDynamicImports: true })
}

const webpack = () =>
  new Promise((done, fail) => {
    tool('webpack')(
      {
        context: resolve('.'),
        entry: resolve(entry),
        target: 'node20',
        mode: 'production',
        output: { path: dirname(outfile), filename: basename(outfile) },
      },
      (error, stats) => (error || stats.hasErrors() ? fail(error ?? new Error(stats.toString())) : done()),
    )
  })

async function ncc() {
  const { code } = await tool('@vercel/ncc')(resolve(entry), { quiet: true })
  writeFileSync(outfile, code)
}

const KINDS = {
  'esbuild-esm': () => esbuild('esm'),
  'esbuild-cjs': () => esbuild('cjs'),
  'rollup-esm': () => rollup('es'),
  'rollup-cjs': () => rollup('cjs'),
  webpack,
  ncc,
}
await KINDS[kind]()
process.exit(0)
