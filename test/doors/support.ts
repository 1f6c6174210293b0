/**
 * What the doors share: the packages packed as they are published, an empty folder where they are installed, and the
 * tools that the plugin is tried with, which are installed in test/doors/tools by these tests alone.
 */
import { spawn } from 'node:child_process'
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join, resolve } from 'node:path'
import type { Test } from 'tap'
import { childEnv } from '../support/child-env.js'

export const TOOLS = resolve('test/doors/tools')
const tarballs = resolve('node_modules/.cache/doors')

export interface Ended {
  readonly code: number | null
  readonly output: string
}

/** Runs a program to its end. `output`: stdout and stderr together. */
export function run(file: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): Promise<Ended> {
  return new Promise((done, fail) => {
    // Through `env`, because the test runner hooks itself into every Node.js that it sees started.
    const child = spawn('env', ['-u', 'NODE_OPTIONS', file, ...args], {
      cwd,
      env: { ...childEnv(), ...env },
      stdio: ['ignore', 'pipe', 'pipe'],
    })
    let output = ''
    for (const stream of [child.stdout, child.stderr]) stream.on('data', data => (output += data))
    child.on('error', fail)
    child.on('close', code => done({ code, output }))
  })
}

/** The same with Node.js, and an error where it fails. */
export async function node(args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): Promise<string> {
  return must(await run(process.execPath, args, cwd, env), args.join(' '))
}

export async function npm(args: readonly string[], cwd: string): Promise<string> {
  const quiet = ['--no-audit', '--no-fund', '--no-update-notifier', '--loglevel=error']
  return must(await run('npm', [...args, ...quiet], cwd), `npm ${args.join(' ')}`)
}

function must({ code, output }: Ended, what: string): string {
  if (code !== 0) throw new Error(`${what} ended with ${code}:\n${output}`)
  return output
}

/** Why nothing can be installed here; undefined where it can. */
export async function offline(): Promise<string | undefined> {
  const { code, output } = await run('npm', ['ping', '--fetch-retries=0', '--fetch-timeout=10000'], tmpdir())
  return code === 0 ? undefined : `no package registry answers: ${output.trim().split('\n').at(-1)}`
}

/** Installs the tools where they are not there yet. */
export async function installTools(): Promise<void> {
  const installed = join(TOOLS, 'node_modules/.package-lock.json')
  const isDone = existsSync(installed) && hasAll(installed)
  if (!isDone) await npm(['ci', '--ignore-scripts'], TOOLS)
}

function hasAll(installed: string): boolean {
  const { packages } = JSON.parse(readFileSync(installed, 'utf8'))
  const { dependencies } = JSON.parse(readFileSync(join(TOOLS, 'package.json'), 'utf8'))
  return Object.keys(dependencies).every(
    name => packages[`node_modules/${name}`]?.version === dependencies[name].split('@').at(-1),
  )
}

/** Packs a workspace as `npm publish` does, and gives the path of its tarball. */
export async function pack(workspace: 'plugin' | 'service'): Promise<string> {
  const folder = join(tarballs, `${workspace}-${process.pid}`)
  rmSync(folder, { recursive: true, force: true })
  mkdirSync(folder, { recursive: true })
  await npm(['pack', '--workspace', workspace, '--pack-destination', folder], resolve('.'))
  return join(folder, readdirSync(folder)[0] as string)
}

/** An empty folder outside this repository; it goes with the test. */
export function emptyFolder(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'door-'))
  t.teardown(() => rmSync(folder, { recursive: true, force: true, maxRetries: 3 }))
  return folder
}

/** Writes files, by their path in a folder. */
export function write(folder: string, files: Readonly<Record<string, string>>): void {
  for (const [path, text] of Object.entries(files)) {
    mkdirSync(dirname(join(folder, path)), { recursive: true })
    writeFileSync(join(folder, path), text)
  }
}

/** A folder where the plugin was installed from its tarball, with other packages beside it. */
export async function project(t: Test, packages: readonly string[], manifest: object = {}): Promise<string> {
  const folder = emptyFolder(t)
  write(folder, { 'package.json': JSON.stringify({ private: true, ...manifest }) })
  await npm(['install', await pack('plugin'), ...packages], folder)
  return folder
}
