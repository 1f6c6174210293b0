/**
 * `npm run model`: the search of all cases with larger constants than in `npm test`, and for the planted mistakes.
 *
 *   npm run model -- --case outage      one case
 *   npm run model -- --small            the constants of `npm test`
 *   npm run model -- --plant time-moves the shortest history that shows a mistake, or a known exception, as a table
 *   npm run model -- --list             the names of the cases, mistakes and exceptions
 */
import { fileURLToPath } from 'node:url'
import { build } from 'esbuild'

// Node.js 20 reads no TypeScript.
const { outputFiles } = await build({
  entryPoints: [fileURLToPath(new URL('./main.ts', import.meta.url))],
  bundle: true,
  write: false,
  platform: 'node',
  format: 'esm',
})
const [{ contents }] = outputFiles
const { main } = await import(`data:text/javascript;base64,${Buffer.from(contents).toString('base64')}`)
process.exitCode = main(process.argv.slice(2))
