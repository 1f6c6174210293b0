/** The program as people get it: from a clone that was not built yet, and from packed tarballs. */
import { spawnSync } from 'node:child_process'
import { cpSync, existsSync, mkdirSync, readdirSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import t from 'tap'
import { childEnv } from '../support/child-env.js'

const root = resolve('.')

function run(file: string, args: readonly string[], cwd: string) {
  // npm asks no registry: what it needs is here, or it is not to be used.
  const env = childEnv({
    npm_config_offline: 'true',
    npm_config_loglevel: 'error',
    npm_config_update_notifier: 'false',
  })
  // Through `env`, because the test runner hooks itself into every Node that it sees started.
  const { status, stdout, stderr } = spawnSync('env', ['-u', 'NODE_OPTIONS', file, ...args], {
    cwd,
    env,
    encoding: 'utf8',
    input: '',
  })
  return { status, stdout, stderr }
}

const npx = (args: readonly string[], cwd: string) => run('npx', ['ml-api-rate-limiter', ...args], cwd)

/** Every package that is installed for `folder` of this repository, but for those that are to come in another way. */
function linkPackages(folder: string, to: string): void {
  const from = join(root, folder, 'node_modules')
  if (!existsSync(from)) return
  mkdirSync(to, { recursive: true })
  for (const name of readdirSync(from)) {
    if (!name.startsWith('ml-api-rate-limiter') && !name.startsWith('.')) symlinkSync(join(from, name), join(to, name))
  }
}

t.test('npx in a clone runs it, never one of the registry, and builds first where nothing was built', async t => {
  const clone = t.testdir()
  for (const name of ['package.json', 'tsconfig.json', 'scripts', 'plugin', 'service']) {
    const isSource = (path: string) => !/[\\/](?:node_modules|dist)(?:[\\/]|$)/.test(path.slice(root.length))
    cpSync(join(root, name), join(clone, name), { recursive: true, filter: isSource })
  }
  // What `npm ci` does.
  const modules = join(clone, 'node_modules')
  linkPackages('', modules)
  linkPackages('service', join(clone, 'service/node_modules'))
  cpSync(join(root, 'node_modules/.bin'), join(modules, '.bin'), { recursive: true, verbatimSymlinks: true })
  symlinkSync('../plugin', join(modules, 'ml-api-rate-limiter'))
  symlinkSync('../service', join(modules, 'ml-api-rate-limiter-service'))

  const first = npx(['--version'], clone)
  t.match(first, { status: 0, stdout: /^\d+\.\d+\.\d+\n$/, stderr: /not built yet/ }, 'stdout has nothing of the build')
  t.match(npx(['hash-key', '--new'], clone), { status: 0, stdout: /^[0-9a-f]{64}\n$/, stderr: /^key, shown this once/ })
  t.match(npx(['serv'], clone), { status: 2, stderr: /Did you mean serve/ })
})

t.test('the packed tarballs hold all that it needs', async t => {
  const folder = t.testdir({ 'package.json': '{ "private": true }' })
  const modules = join(folder, 'node_modules')
  linkPackages('', modules)
  linkPackages('service', join(modules, 'ml-api-rate-limiter-service/node_modules'))
  for (const [workspace, name] of [
    ['plugin', 'ml-api-rate-limiter'],
    ['service', 'ml-api-rate-limiter-service'],
  ] as const) {
    const packed = run('npm', ['pack', '--json', '--workspace', workspace, '--pack-destination', folder], root)
    t.equal(packed.status, 0, packed.stderr)
    const tarball = readdirSync(folder).find(file => file.endsWith('.tgz') && file.startsWith(`${name}-0`)) as string
    mkdirSync(join(modules, name), { recursive: true })
    run('tar', ['xzf', tarball, '--strip-components=1', '-C', join(modules, name)], folder)
  }
  const program = join(modules, 'ml-api-rate-limiter-service/bin/ml-api-rate-limiter.js')
  mkdirSync(join(modules, '.bin'))
  symlinkSync(program, join(modules, '.bin/ml-api-rate-limiter'))
  t.match(npx(['--help'], folder), { status: 0, stdout: /^Usage: ml-api-rate-limiter/, stderr: '' })
  const check = npx(['serve', '--check', '--models-dir', join(root, 'models')], folder)
  t.match(check, { status: 0, stdout: /^ok +model +iris, version 1$/m })
})
