import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import t from 'tap'
import { childEnv } from '../support/child-env.js'

// Through `env`, because the test runner hooks itself into every Node that it sees started.
const run = (file: string, args: string[], cwd: string) =>
  execFileSync('env', ['-u', 'NODE_OPTIONS', file, ...args], {
    cwd,
    env: childEnv({ npm_config_loglevel: 'error' }),
    encoding: 'utf8',
    stdio: 'pipe',
  })

const bin = (name: string) => resolve('node_modules/.bin', name)

const ASK = `
const app = Fastify()
const main = async () => {
  await app.register(rateLimit, { max: 1, timeWindow: '1 minute' })
  app.get('/', async () => 'ok')
  const codes = [(await app.inject('/')).statusCode, (await app.inject('/')).statusCode]
  console.log(codes.join(), normalizeIP('::ffff:192.0.2.1'))
}
main()
`

/** An app that is limited by one half of the process and asks by the other: what counts is one. */
const BOTH = `
const app = Fastify()
const main = async () => {
  await app.register(imported, { max: 1, timeWindow: '1 minute' })
  app.get('/', async () => 'ok')
  await app.inject('/')
  const { statusCode } = await app.inject('/')
  let same = imported === required && imported === required.default
  for (const name of Object.keys(all)) same &&= all[name] === required[name]
  const other = Fastify()
  other.register(required, { max: 'many' })
  const caught = await other.ready().then(() => 'nothing', error => error instanceof InvalidOption)
  console.log(statusCode, same, caught)
}
main()
`

t.test('the packed tarball works in an ESM, a CommonJS and a TypeScript app, and is in order', async t => {
  const root = resolve('.')
  const folder = t.testdir({
    node_modules: {},
    'esm.mjs': `import Fastify from 'fastify'\nimport rateLimit, { normalizeIP } from 'ml-api-rate-limiter'\n${ASK}`,
    'cjs.cjs': `const Fastify = require('fastify')\nconst rateLimit = require('ml-api-rate-limiter')\nconst { normalizeIP } = rateLimit\n${ASK}`,
    'both.mjs': `import { createRequire } from 'node:module'\nimport Fastify from 'fastify'\nimport imported, * as all from 'ml-api-rate-limiter'\nimport { InvalidOption } from 'ml-api-rate-limiter'\nconst required = createRequire(import.meta.url)('ml-api-rate-limiter')\n${BOTH}`,
    'app.cts': `import Fastify from 'fastify'\nimport rateLimit = require('ml-api-rate-limiter')\nconst { normalizeIP } = rateLimit\nconst options: rateLimit.RateLimitPluginOptions = { max: 1 }\nconsole.log(options.max)\n${ASK}`,
    'named.cts': `import Fastify from 'fastify'\nimport rateLimit, { normalizeIP, QuotaExceeded, type Decision } from 'ml-api-rate-limiter'\nexport const keyOf = (error: unknown): Decision | undefined => error instanceof QuotaExceeded ? error.decision : undefined\n${ASK}`,
    'app.mts': `import Fastify from 'fastify'\nimport rateLimit, { normalizeIP } from 'ml-api-rate-limiter'\n${ASK}`,
    'tsconfig.json': JSON.stringify({
      compilerOptions: {
        strict: true,
        module: 'nodenext',
        target: 'es2022',
        skipLibCheck: false,
        types: ['node'],
        outDir: 'out',
      },
      include: ['app.mts', 'app.cts', 'named.cts'],
    }),
    'package.json': '{ "private": true }',
  })
  run('npm', ['pack', '--workspace', 'plugin', '--pack-destination', folder], root)
  const tarball = readdirSync(folder).find(file => file.endsWith('.tgz')) as string
  // What npm would install, without asking a registry: the tarball, and its dependencies as they are here.
  run('tar', ['xzf', tarball], folder)
  run('mv', ['package', 'node_modules/ml-api-rate-limiter'], folder)
  const modules = join(root, 'node_modules')
  for (const name of readdirSync(modules)) {
    if (!name.startsWith('ml-api-rate-limiter'))
      run('ln', ['-s', join(modules, name), join(folder, 'node_modules', name)], folder)
  }
  for (const file of ['esm.mjs', 'cjs.cjs']) t.equal(run(process.execPath, [file], folder), '200,429 192.0.2.1\n', file)
  run(bin('tsc'), [], folder)
  for (const file of ['app.mjs', 'app.cjs', 'named.cjs']) {
    t.match(run(process.execPath, [`out/${file}`], folder), /^(1\n)?200,429 192.0.2.1\n$/, `TypeScript: ${file}`)
  }
  t.equal(run(process.execPath, ['both.mjs'], folder), '429 true true\n', '`import` and `require` give the same')

  const bundle = run('tar', ['xzOf', tarball, 'package/dist/bundle.cjs'], folder)
  const imported = [...bundle.matchAll(/\brequire\("(?!node:)([^"]+)"\)/g)].map(([, name]) => name)
  const { dependencies } = JSON.parse(run('tar', ['xzOf', tarball, 'package/package.json'], folder))
  t.strictSame([...new Set(imported)].sort(), Object.keys(dependencies), 'one file to import, beside the dependencies')
  const checks = [
    [bin('publint'), '--strict', tarball],
    [bin('attw'), tarball, '--no-emoji'],
  ]
  for (const [file = '', ...args] of checks) {
    t.doesNotThrow(() => run(file, args, folder), args.join(' '))
  }
})

t.test('the package stays within the budgets of STABILITY.md', async t => {
  const page = readFileSync('plugin/STABILITY.md', 'utf8')
  const budget = (what: string) => Number(new RegExp(`\\| ${what} \\| (\\d+)`).exec(page)?.[1])
  const [packed] = JSON.parse(run('npm', ['pack', '--json', '--dry-run', '--workspace', 'plugin'], resolve('.')))
  t.ok(packed.size <= budget('Packed') * 1000, `packed: ${packed.size}`)
  t.ok(packed.unpackedSize <= budget('Unpacked') * 1000, `unpacked: ${packed.unpackedSize}`)
  const { dependencies } = JSON.parse(readFileSync('plugin/package.json', 'utf8'))
  const names = Object.keys(dependencies)
  t.equal(names.length, budget('Dependencies'))
  for (const name of names) {
    const manifest = JSON.parse(readFileSync(join('node_modules', name, 'package.json'), 'utf8'))
    t.strictSame(manifest.dependencies ?? {}, {}, `${name} brings no others`)
  }
  const count = "require('ml-api-rate-limiter'); console.log(Object.keys(require.cache).length)"
  const files = Number(run(process.execPath, ['--eval', count], resolve('.')))
  t.ok(files <= budget('Files loaded at import, with those of dependencies'), `loads ${files} files`)
})

t.test('npm shows where the package comes from, and its pages link to what is there', async t => {
  for (const folder of ['plugin', 'service']) {
    const { repository, homepage, bugs } = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8'))
    t.equal(repository.directory, folder)
    const web = repository.url.replace(/^git\+|\.git$/g, '')
    t.strictSame([homepage, bugs.url], [`${web}#readme`, `${web}/issues`])
    const pages = folder === 'plugin' ? ['README.md', 'STABILITY.md'] : ['README.md']
    for (const page of pages) {
      const links = readFileSync(join(folder, page), 'utf8').matchAll(/\]\(([^)#\s]+)/g)
      for (const [, link = ''] of links) {
        t.match(link, /^https:/, 'npm knows no other files')
        if (link.startsWith(web)) t.ok(existsSync(link.slice(`${web}/blob/main/`.length)), link)
      }
    }
  }
})
