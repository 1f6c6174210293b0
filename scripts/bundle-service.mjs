// Bundles the service, with the packages that it needs to start, into few files: a start that loads a thousand small
// ones takes twice as long. What is needed later, or holds files of its own, stays outside and is loaded when it is
// needed. Usage, in the folder of the service: node bundle-service.mjs
import { copyFileSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { basename, dirname, join, relative } from 'node:path'
import { build } from 'esbuild'

/** As deep as the folders of `src`, so that paths to `web` and package.json are the same. */
const OUT = 'dist/bundle'

/** What is started or imported by path, with its name in the bundle. The benchmarks put a service of their own together. */
const ENTRIES = {
  server: 'server',
  'cli/main': 'main',
  app: 'app',
  config: 'config',
  warm: 'warm',
  'inference/models/repository': 'repository',
  'inference/workers/worker': 'worker',
  'inference/workers/parent-watch': 'parent-watch',
}

const OUTSIDE = [
  'onnxruntime-node', // a native library
  'sharp', // another one
  'ml-api-rate-limiter', // a package of its own
  'uplot', // its files are served
  '@opentelemetry/*', // only where traces are asked for
]

/** Packages that read files beside theirs: from where they are installed. */
const foldersOfPackages = {
  name: 'folders-of-packages',
  setup(bundle) {
    bundle.onLoad({ filter: /[/\\]@fastify[/\\]swagger-ui[/\\].*\.js$/ }, ({ path }) => {
      const inside = path.replaceAll('\\', '/').split('/node_modules/').at(-1)
      const folder = `require('node:path').dirname(require.resolve('${inside}'))`
      return {
        contents: readFileSync(path, 'utf8').replaceAll('__dirname', folder),
        loader: 'js',
        resolveDir: dirname(path),
      }
    })
  },
}

rmSync(OUT, { recursive: true, force: true })
const { metafile } = await build({
  entryPoints: Object.entries(ENTRIES).map(([path, out]) => ({ in: `src/${path}.ts`, out })),
  outdir: OUT,
  bundle: true,
  splitting: true,
  chunkNames: '[name]-[hash]',
  format: 'esm',
  platform: 'node',
  target: 'node20.19',
  // Names of classes and functions stand in logs and stacks.
  minifyWhitespace: true,
  minifySyntax: true,
  legalComments: 'none',
  sourcemap: true,
  sourcesContent: false,
  metafile: true,
  external: OUTSIDE,
  define: { __dirname: 'import.meta.dirname', __filename: 'import.meta.filename' },
  plugins: [foldersOfPackages],
  banner: {
    js: "import { createRequire as requireOf } from 'node:module'; const require = requireOf(import.meta.url);",
  },
})
// Scripts of Redis are read from beside the module that runs them.
for (const file of readdirSync('src', { recursive: true })) {
  if (file.endsWith('.lua')) copyFileSync(join('src', file), join(OUT, basename(file)))
}
writeFileSync(join(OUT, 'LICENSES.txt'), licencesOf(Object.keys(metafile.inputs)))
for (const [path, name] of Object.entries(ENTRIES)) {
  const file = join('dist', `${path}.js`)
  mkdirSync(dirname(file), { recursive: true })
  const bundled = relative(dirname(file), join(OUT, `${name}.js`)).replaceAll('\\', '/')
  writeFileSync(file, `export * from '${bundled.startsWith('.') ? bundled : `./${bundled}`}'\n`)
}

/** What is bundled has licences that want to be told. */
function licencesOf(files) {
  const folders = new Set(files.flatMap(file => /^.*node_modules\/(?:@[^/]+\/)?[^/]+/.exec(file)?.[0] ?? []))
  return [...folders].sort().map(licenceOf).join('\n')
}

function licenceOf(folder) {
  const { name, version, license } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8'))
  const file = readdirSync(folder).find(each => /^licen[cs]e/i.test(each))
  const text = file === undefined ? '' : `\n${readFileSync(join(folder, file), 'utf8').trim()}\n`
  return `== ${name} ${version}: ${license}\n${text}`
}
