/**
 * Strips the types of what tests import, in place of TypeScript's own compiler, which takes half of the processor time of
 * a test that builds the service. Types are checked by `npm run typecheck`.
 */
const { transformSync } = require('esbuild')

/** As ts-node wants it: https://typestrong.org/ts-node/docs/transpilers */
exports.create = () => ({
  transpile(input, { fileName }) {
    const { code, map } = transformSync(input, {
      loader: 'ts',
      format: 'esm',
      target: 'es2023',
      sourcemap: 'external',
      sourcefile: fileName,
      sourcesContent: false,
    })
    return { outputText: code, sourceMapText: map }
  },
})
