/** What a reader of a page has before them: a clone of this repository, a terminal, and others in which services run. */
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn, spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Test } from 'tap'
import { childEnv } from '../support/child-env.js'
import { findProgram } from '../support/program.js'
import { until } from '../support/redis-fleet.js'
import { root } from './markdown.js'

const STAND_INS = fileURLToPath(new URL('stand-ins.sh', import.meta.url))
const START_MS = 120_000

/** A copy of what the pages use, as it was built, in a folder called as a clone would be; it goes with the test. */
export function cloneOf(t: Test): string {
  for (const name of ['bash', 'curl']) {
    if (findProgram([name], name) === undefined) throw new Error(`no ${name} to follow the pages with`)
  }
  const parent = mkdtempSync(join(tmpdir(), 'docs-'))
  t.teardown(() => rmSync(parent, { recursive: true, force: true }))
  const clone = join(parent, 'ml-api-rate-limiter')
  const from = fileURLToPath(root)
  mkdirSync(clone)
  for (const name of [
    'package.json',
    'package-lock.json',
    'compose.yaml',
    'deploy',
    'models',
    'plugin',
    'scripts',
    'service',
  ]) {
    cpSync(join(from, name), join(clone, name), { recursive: true, filter: path => !path.includes('node_modules') })
  }
  for (const folder of ['', 'plugin', 'service']) {
    symlinkIfThere(join(from, folder, 'node_modules'), join(clone, folder, 'node_modules'))
  }
  // It is built, and what builds is not there.
  const manifest = JSON.parse(readFileSync(join(clone, 'package.json'), 'utf8'))
  manifest.scripts.build = 'node --eval 0'
  writeFileSync(join(clone, 'package.json'), JSON.stringify(manifest))
  writeFileSync(join(clone, '.curlrc'), 'silent\nshow-error\n') // no progress bar, as on a terminal with short answers
  return clone
}

function symlinkIfThere(target: string, path: string): void {
  if (spawnSync('test', ['-d', target]).status === 0) symlinkSync(target, path, 'dir')
}

/** A shell that keeps its folder and its variables from one command to the next, and the services it was told of. */
export class Desk {
  readonly #shell: ChildProcessWithoutNullStreams
  readonly #env: NodeJS.ProcessEnv
  readonly #cwd: string
  readonly #services = new Map<string, Service>()
  #output = ''

  constructor(t: Test, cwd: string, settings: Readonly<Record<string, string>>) {
    this.#cwd = cwd
    const { REDIS_URL: _, ...env } = childEnv()
    this.#env = { ...env, BASH_ENV: STAND_INS, CURL_HOME: cwd, ...settings }
    this.#shell = spawn('bash', [], { cwd, env: this.#env, stdio: 'pipe' })
    this.#shell.stdout.on('data', data => (this.#output += data))
    this.#shell.stderr.on('data', data => (this.#output += data))
    t.teardown(async () => {
      this.#shell.kill()
      await Promise.all([...this.#services.values()].map(stop))
    })
  }

  /** What the commands printed, and the status of the last one of them that failed, else 0. */
  async run(code: string): Promise<{ status: number; output: string }> {
    this.#output = ''
    this.#shell.stdin.write(`{\n${this.#toOwnPorts(code)}\n} </dev/null 2>&1\nprintf '\\0%s\\0' "$failed"; failed=0\n`)
    await until('the commands end', async () => /\0\d+\0$/.test(this.#output), START_MS)
    const [output = '', status] = this.#output.split('\0')
    return { status: Number(status), output: this.#toPagePorts(output) }
  }

  /** Starts the services of these commands in a terminal of their own, and waits until all their models are loaded. */
  async serve(code: string): Promise<void> {
    const [, port = '3000'] = /\bPORT=(\d+)/.exec(code) ?? []
    await this.#stop(port)
    const child = spawn('bash', ['-c', this.#toOwnPorts(code).replace(/\bPORT=\d+/g, 'PORT=0')], {
      cwd: this.#cwd,
      env: { PORT: '0', ...this.#env },
      stdio: ['ignore', 'pipe', 'pipe'],
      detached: true,
    })
    const service: Service = { child, output: '', port: undefined, ended: new Promise(end => child.on('close', end)) }
    this.#services.set(port, service)
    for (const stream of [child.stdout, child.stderr]) stream.on('data', data => (service.output += data))
    await until(
      `${code.trim()} listens`,
      async () => {
        service.port = /listening on http:\/\/[^"\s]*:(\d+)/.exec(service.output)?.[1]
        return isReady(service) || child.exitCode !== null
      },
      START_MS,
    )
    if (!isReady(service)) throw new Error(`${code.trim()} ended: ${service.output}`)
  }

  /** What the service on this port of the page has logged. */
  log(port = '3000'): string {
    return this.#toPagePorts(this.#services.get(port)?.output ?? '')
  }

  async #stop(port: string): Promise<void> {
    const service = this.#services.get(port)
    this.#services.delete(port)
    if (service !== undefined) await stop(service)
  }

  /** Services get whatever port is free, so that pages can be tried beside each other. */
  #toOwnPorts(code: string): string {
    return code
      .replace(
        /\blocalhost:(300\d)\b/g,
        (text, port) => `localhost:${this.#services.get(port)?.port ?? text.slice(10)}`,
      )
      .replaceAll('redis://localhost:6379', process.env.REDIS_URL ?? '')
  }

  #toPagePorts(text: string): string {
    let told = text
    for (const [port, { port: own }] of this.#services)
      if (own !== undefined) told = told.replaceAll(`:${own}`, `:${port}`)
    return told
  }
}

interface Service {
  readonly child: ChildProcess
  readonly ended: Promise<unknown>
  output: string
  port: string | undefined
}

/** As Ctrl-C in its terminal does: the whole group hears of it. */
async function stop({ child, ended }: Service): Promise<void> {
  if (child.exitCode === null && child.pid !== undefined) process.kill(-child.pid, 'SIGINT')
  await ended
}

const isReady = ({ output, port }: Service): boolean =>
  port !== undefined && output.includes('ready: all models are loaded')
