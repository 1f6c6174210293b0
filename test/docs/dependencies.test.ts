/** What the project is made of: each dependency has its reason, is used, is locked, and stands in the bill of materials. */
import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { builtinModules } from 'node:module'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { childEnv } from '../support/child-env.js'
import { readPage, root, tableRows } from './markdown.js'

type Versions = Readonly<Record<string, string>>

interface Manifest {
  readonly name: string
  readonly dependencies?: Versions
  readonly devDependencies?: Versions
  readonly peerDependencies?: Versions
}

const manifest = (path: string): Manifest => JSON.parse(readPage(path))
const plugin = manifest('plugin/package.json')
const service = manifest('service/package.json')
const workspace = manifest('package.json')

const names = (...lists: readonly (Versions | undefined)[]) => lists.flatMap(list => Object.keys(list ?? {})).sort()

/** Packages that the table under this sentence of CONTRIBUTING.md gives a reason for. */
function listedUnder(sentence: string): string[] {
  const [, page = ''] = readPage('CONTRIBUTING.md').split(sentence)
  const [table = ''] = page.split(/\n\n(?!\|)/).slice(page.startsWith('\n\n') ? 0 : 1)
  const rows = tableRows(table)
  for (const { cells } of rows) t.ok(cells.Why, `${cells.Package} has a reason`)
  return rows.flatMap(({ cells }) =>
    [...(cells.Package ?? '').matchAll(/`([^`]+)`/g)].map(([, name]) => name as string),
  )
}

for (const [sentence, { name }, declared] of [
  ['The plugin, which every app installs with it:', plugin, names(plugin.dependencies, plugin.peerDependencies)],
  ['The service:', service, names(service.dependencies)],
  ['For development only:', workspace, names(workspace.devDependencies)],
] as const) {
  t.test(`CONTRIBUTING.md has one reason for each dependency of ${name}, and for nothing else`, async t => {
    t.strictSame(listedUnder(sentence).sort(), declared)
  })
}

const filesIn = (folder: string): string[] =>
  readdirSync(new URL(folder, root), { withFileTypes: true, recursive: true })
    .filter(entry => entry.isFile() && /\.[mc]?[jt]s$/.test(entry.name))
    .map(entry => join(entry.parentPath, entry.name))
    .filter(file => !/\/(?:node_modules|dist|results)\//.test(file))

/** Packages that the files of a folder import or resolve. */
function importedIn(folder: string): Set<string> {
  const specifiers = filesIn(folder).flatMap(file =>
    [
      ...readFileSync(file, 'utf8').matchAll(/(?:\bfrom |\bimport |\bimport\(|\brequire\(|\.resolve\()'([^'.][^']*)'/g),
    ].map(([, specifier]) => specifier as string),
  )
  const packages = specifiers
    .filter(specifier => !specifier.startsWith('node:') && !builtinModules.includes(specifier))
    .map(specifier => (/^(?:@[^/]+\/)?[^/]+/.exec(specifier) as RegExpExecArray)[0])
  return new Set(packages)
}

t.test('what the plugin and the service import is what they declare', async t => {
  const inPlugin = importedIn('plugin/src/')
  // Its types alone: the app brings its client.
  inPlugin.delete('ioredis')
  t.strictSame([...inPlugin].sort(), names(plugin.dependencies, plugin.peerDependencies))
  t.strictSame([...importedIn('service/src/')].sort(), names(service.dependencies))
})

t.test('every dependency for development is used', async t => {
  const imported = new Set(['test/', 'bench/', 'examples/', 'scripts/'].flatMap(folder => [...importedIn(folder)]))
  const commands = `${readPage('package.json')}\n${readPage('test/plugin/package.test.ts')}`
  const usedOtherwise: Readonly<Record<string, string>> = {
    '@types/cli-progress': 'types of a package that has none',
    '@types/node': 'tsconfig.json names it',
    '@typescript/native': 'is `tsc`',
    typescript: 'tap asks it for types',
    axios: 'openapi-client-axios sends with it',
    rxjs: '@nestjs/core asks for it',
  }
  for (const name of names(workspace.devDependencies)) {
    const { bin = {} } = manifest(`node_modules/${name}/package.json`) as { bin?: string | Versions }
    const programs = typeof bin === 'string' ? [name] : Object.keys(bin)
    const called = programs.some(program => new RegExp(`["' ]${program}["' ]`).test(commands))
    t.ok(imported.has(name) || called || usedOtherwise[name], name)
  }
})

interface Locked {
  readonly version: string
  readonly integrity?: string
  readonly resolved?: string
  readonly link?: boolean
  readonly inBundle?: boolean
  readonly engines?: { readonly node?: string }
}

t.test('every package is locked to its content, and comes from the registry', async t => {
  const { packages } = JSON.parse(readPage('package-lock.json')) as { packages: Record<string, Locked> }
  for (const [path, { integrity, resolved, link, inBundle }] of Object.entries(packages)) {
    if (!path.includes('node_modules/') || link || inBundle) continue
    if (!/^sha512-/.test(integrity ?? '')) t.fail(`${path} has no checksum`)
    if (resolved !== undefined && !resolved.startsWith('https://registry.npmjs.org/')) t.fail(`${path}: ${resolved}`)
  }
})

t.test('no package wants a newer Node.js than this repository asks for', async t => {
  const { packages } = JSON.parse(readPage('package-lock.json')) as { packages: Record<string, Locked> }
  const tooNew = Object.entries(packages).filter(([, { engines }]) =>
    /^(?:>=|\^|~)?\s*(?:2[1-9]|[3-9]\d)\b/.test(engines?.node ?? ''),
  )
  t.strictSame(
    tooNew.map(([path, { engines }]) => `${path} ${engines?.node}`),
    [],
  )
})

interface Component {
  readonly name: string
  readonly version: string
  readonly hashes?: readonly unknown[]
  readonly licenses?: readonly unknown[]
}

t.test('the bill of materials has what runs in production, and nothing else', async t => {
  const file = join(t.testdir(), 'sbom.json')
  execFileSync('env', ['-u', 'NODE_OPTIONS', process.execPath, 'scripts/sbom.mjs', file], {
    cwd: fileURLToPath(root),
    env: childEnv({ npm_config_loglevel: 'error' }),
    stdio: 'pipe',
  })
  const bom = JSON.parse(readFileSync(file, 'utf8')) as { bomFormat: string; components: Component[] }
  t.equal(bom.bomFormat, 'CycloneDX')
  const components = new Map(bom.components.map(component => [component.name, component]))
  const direct = new Set(names(plugin.dependencies, plugin.peerDependencies, service.dependencies))
  for (const name of direct) t.ok(components.has(name), name)
  for (const name of names(workspace.devDependencies).filter(name => !direct.has(name))) {
    if (name !== 'ajv' && name !== 'yaml') t.notOk(components.has(name), `${name} is for development`)
  }
  for (const { name, hashes, licenses } of bom.components) {
    t.ok(licenses?.length, `${name} has a licence`)
    if (name !== plugin.name && name !== service.name) t.ok(hashes?.length, `${name} has a checksum`)
  }
})
