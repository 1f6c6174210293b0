/**
 * Servers from Debian's packages, of any suite, without installing anything: each is unpacked into a cache folder together
 * with the libraries that it needs, its libc included, and started through the loader of that libc.
 */
import { spawnSync } from 'node:child_process'
import { chmodSync, existsSync, mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { homedir } from 'node:os'
import { join } from 'node:path'

export const cacheFolder = join(
  process.env.XDG_CACHE_HOME || join(homedir(), '.cache'),
  'ml-api-rate-limiter',
  'servers',
)
const MIRROR = process.env.DEBIAN_MIRROR ?? 'http://deb.debian.org/debian'

function run(command, args, cwd) {
  const { status, error, stdout, stderr } = spawnSync(command, args, { cwd, encoding: 'utf8', timeout: 300_000 })
  if (status === 0) return stdout
  throw new Error(`${command}: ${error?.message ?? stderr.trim().split('\n').at(-1)}`)
}

/** Why packages of Debian cannot be used on this machine; undefined where they can. */
export function withoutDebian() {
  if (process.platform !== 'linux') return `no Linux, but ${process.platform}`
  for (const command of ['apt-get', 'dpkg', 'dpkg-deb']) {
    if (spawnSync(command, ['--version']).error !== undefined) return `no ${command} on this machine`
  }
  return undefined
}

/**
 * A folder in which `redis-server` is the server of a package, downloaded the first time. Throws where it cannot be had.
 *
 * @param suite   a suite of Debian, such as trixie
 * @param program `redis-server` or `valkey-server`, in the package of the same name
 */
export function fromDebian(suite, program) {
  const folder = join(cacheFolder, `${suite}-${program}`)
  const bin = join(folder, 'bin')
  if (existsSync(bin)) return bin
  const temporary = `${folder}.${process.pid}`
  try {
    unpack(temporary, suite, program)
    rmSync(folder, { recursive: true, force: true })
    renameSync(temporary, folder)
  } finally {
    rmSync(temporary, { recursive: true, force: true })
  }
  writeStarter(folder, program)
  return bin
}

function unpack(folder, suite, program) {
  for (const name of ['lists/partial', 'cache/archives/partial', 'root'])
    mkdirSync(join(folder, name), { recursive: true })
  writeFileSync(join(folder, 'sources.list'), `deb ${MIRROR} ${suite} main\n`)
  // As if nothing was installed, so that every library comes along.
  writeFileSync(join(folder, 'status'), '')
  const settings = {
    'Dir::Etc::sourcelist': join(folder, 'sources.list'),
    'Dir::Etc::sourceparts': '-',
    'Dir::State::lists': join(folder, 'lists'),
    'Dir::State::status': join(folder, 'status'),
    'Dir::Cache': join(folder, 'cache'),
    'APT::Sandbox::User': 'root',
  }
  const apt = (...args) =>
    run('apt-get', [...Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]), ...args])
  apt('-qq', 'update')
  const needed = apt('install', '--no-install-recommends', '--print-uris', '-qq', '-y', program)
    .split('\n')
    .map(line => line.split(' ')[1] ?? '')
    .filter(file => /^(?:lib|zlib|(?:redis|valkey)-)/.test(file) && !/^lib(?:perl|pam|semanage)/.test(file))
    .map(file => file.split('_')[0])
  const packages = join(folder, 'packages')
  mkdirSync(packages)
  run(
    'apt-get',
    [...Object.entries(settings).flatMap(([name, value]) => ['-o', `${name}=${value}`]), '-qq', 'download', ...needed],
    packages,
  )
  for (const file of readdirSync(packages)) run('dpkg-deb', ['-x', join(packages, file), join(folder, 'root')])
  for (const name of ['packages', 'lists', 'cache']) rmSync(join(folder, name), { recursive: true, force: true })
}

/** A program named `redis-server`, as the tests call it. */
function writeStarter(folder, program) {
  const root = join(folder, 'root')
  const libraries = readdirSync(join(root, 'usr', 'lib')).filter(
    name => name.endsWith('-linux-gnu') || name.includes('-linux-gnu'),
  )
  const paths = ['usr/lib', 'lib']
    .flatMap(place => libraries.map(name => join(root, place, name)))
    .filter(path => existsSync(path))
  const loader = paths.flatMap(path =>
    readdirSync(path)
      .filter(name => /^ld-linux.*\.so/.test(name))
      .map(name => join(path, name)),
  )[0]
  if (loader === undefined) throw new Error(`no loader in ${root}`)
  const starter = join(folder, 'bin', 'redis-server')
  mkdirSync(join(folder, 'bin'), { recursive: true })
  writeFileSync(
    starter,
    `#!/bin/sh\nexec '${loader}' --library-path '${paths.join(':')}' '${join(root, 'usr', 'bin', program)}' "$@"\n`,
  )
  chmodSync(starter, 0o755)
}
