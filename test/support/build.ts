/** Builds the service for tests, in this process or as one of its own, and ends it with the test. */
import { type ChildProcess, spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { existsSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { InjectOptions } from 'fastify'
import { t as root, type Test } from 'tap'
import { buildApp } from '../../service/src/app.js'
import { type Config, readConfig } from '../../service/src/config.js'
import { openModels, type Repository } from '../../service/src/inference/models/repository.js'
import type { Models } from '../../service/src/inference/types.js'
import { childEnv } from './child-env.js'

type Settings = Readonly<Record<string, string | number | undefined>>

/** Quick to start and to stop, and quiet; everything else as the service has it. */
const forTests: Settings = {
  HOST: '127.0.0.1',
  PORT: 0,
  LOG_LEVEL: 'silent',
  INFERENCE_THREADS: 1,
  STOP_DELAY_MS: 0,
}

/** Settings that count in the tests' Redis, apart from all other tests. The store may be slow on a busy machine. */
export const inRedis = (): Settings => ({
  REDIS_URL: process.env.REDIS_URL,
  REDIS_NAMESPACE: `test:${randomUUID()}:`,
  STORE_TIMEOUT_MS: 5000,
})

/** A place where limits are counted. */
export interface Store {
  readonly name: string
  readonly settings: () => Settings
}

/** Both of them, for what must hold in either. */
export const STORES: readonly Store[] = [
  { name: 'in Redis', settings: inRedis },
  { name: 'in this process', settings: () => ({}) },
]

const asText = (settings: Settings): Record<string, string> =>
  Object.fromEntries(
    Object.entries(settings).flatMap(([name, value]) => (value === undefined ? [] : [[name, `${value}`]])),
  )

/** The repository's models, loaded once for all apps of a test file. */
let engine: Promise<Repository> | undefined

async function sharedModels(config: Config): Promise<Models> {
  if (engine === undefined) {
    const silent = { info: () => {}, warn: () => {}, error: () => {} }
    engine = openModels({ ...config.models, log: silent })
    root.teardown(async () => (await engine)?.close())
  }
  const models = await engine
  return {
    list: () => models.list(),
    versions: name => models.versions(name),
    get: (name, version) => models.get(name, version),
    reload: () => models.reload(),
    get broken() {
      return models.broken
    },
    get queueRows() {
      return models.queueRows
    },
    get ready() {
      return models.ready
    },
    // Other apps still need them.
    close: async () => {},
  }
}

/** The service, without a port. `models` replaces the repository's. */
export async function buildService(t: Test, settings: Settings = {}, models?: Models) {
  const config = readConfig(asText({ ...forTests, ...settings }))
  const service = await buildApp(config, { openModels: async () => models ?? sharedModels(config) })
  t.teardown(() => service.app.close())
  const ask = (request: InjectOptions | string) => service.app.inject(request)
  const predict = (payload: InjectOptions['payload'], more: InjectOptions = {}) =>
    ask({ method: 'POST', url: '/v1/predict', payload, ...more } as InjectOptions)
  return { ...service, config, ask, predict }
}

export const IRIS = { model: 'iris', features: [5.1, 3.5, 1.4, 0.2] } as const

export interface Ended {
  readonly code: number | null
  readonly signal: NodeJS.Signals | null
  readonly stdout: string
  readonly stderr: string
}

const PROGRAMS = { server: 'dist/server.js', cli: 'bin/ml-api-rate-limiter.js' } as const

/** A program of the service as its own process: as it was built, since a loader for its source takes seconds to start. */
export function runProgram(
  t: Test,
  name: keyof typeof PROGRAMS,
  args: readonly string[],
  settings: Settings = {},
  input?: string,
) {
  const service = new URL('../../service/', import.meta.url)
  const program = fileURLToPath(new URL(PROGRAMS[name], service))
  if (!existsSync(new URL('dist/server.js', service)))
    throw new Error('there is no build to test; npm run build makes one')
  const { REDIS_URL: _, ...env } = childEnv()
  const child = spawn(process.execPath, [program, ...args], {
    env: { ...env, ...asText(settings) },
    stdio: 'pipe',
  })
  child.stdin.end(input)
  let stdout = ''
  let stderr = ''
  child.stdout.on('data', data => (stdout += data))
  child.stderr.on('data', data => (stderr += data))
  const ended = new Promise<Ended>(resolve =>
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr })),
  )
  t.teardown(() => {
    child.kill('SIGKILL')
    return ended
  })
  return { child, ended, output: () => stdout + stderr }
}

export interface RunningService {
  readonly url: string
  readonly child: ChildProcess
  readonly ended: Promise<Ended>
  output(): string
  predict(body?: object, init?: RequestInit): Promise<Response>
}

/** A service process that listens, with all its models loaded. */
export async function startService(t: Test, settings: Settings = {}): Promise<RunningService> {
  const { child, ended, output } = runProgram(t, 'server', [], { ...forTests, LOG_LEVEL: 'info', ...settings })
  const url = await new Promise<string>((resolve, reject) => {
    const look = () => {
      const [, found] = /listening on (http:[^"]+)/.exec(output()) ?? []
      if (found !== undefined && output().includes('ready: all models are loaded')) resolve(found)
    }
    child.stdout.on('data', look)
    void ended.then(({ code, stderr }) => reject(new Error(`the service ended with ${code}: ${stderr}`)))
  })
  return { child, ended, output, ...clientOf(url) }
}

/** Asks for predictions over the network. */
export function clientOf(url: string): Pick<RunningService, 'url' | 'predict'> {
  const predict = (body: object = IRIS, init: RequestInit = {}) =>
    fetch(`${url}/v1/predict`, {
      method: 'POST',
      body: JSON.stringify(body),
      ...init,
      headers: { 'content-type': 'application/json', ...init.headers },
    })
  return { url, predict }
}
