/** Several processes on one port, as a client sees them: each request over a connection of its own goes to the next one. */
import { readFileSync } from 'node:fs'
import { Agent, type IncomingHttpHeaders, request } from 'node:http'
import type { Test } from 'tap'
import { startService } from '../../support/build.js'
import { modelsFolder } from '../../support/onnx-folder.js'
import { identity } from '../../support/onnx-models.js'
import { until } from '../../support/redis-fleet.js'

export const TOKEN = 'a-long-admin-token'

export interface Answer {
  readonly status: number
  readonly headers: IncomingHttpHeaders
  readonly text: string
}

export interface Asked {
  readonly method?: string
  readonly body?: unknown
  readonly headers?: Readonly<Record<string, string>>
  /** Undefined: a connection of its own. */
  readonly agent?: Agent
}

export function ask(url: string, { method, body, headers, agent }: Asked = {}): Promise<Answer> {
  const text = body === undefined ? undefined : JSON.stringify(body)
  return new Promise((resolve, reject) => {
    const sent = request(url, {
      method: method ?? (text === undefined ? 'GET' : 'POST'),
      headers: { ...(text === undefined ? {} : { 'content-type': 'application/json' }), ...headers },
      agent: agent ?? false,
    })
    sent.on('error', reject)
    sent.on('response', response => {
      let answer = ''
      response.setEncoding('utf8')
      response.on('error', reject)
      response.on('data', chunk => (answer += chunk))
      response.on('end', () =>
        resolve({ status: response.statusCode as number, headers: response.headers, text: answer }),
      )
    })
    sent.end(text)
  })
}

/** One that keeps its connection. */
export function client(t: Test): Agent {
  const agent = new Agent({ keepAlive: true, maxSockets: 1 })
  t.teardown(() => agent.destroy())
  return agent
}

export const admin = { authorization: `Bearer ${TOKEN}` }

/** The value of a series; undefined where there is none. */
export function seriesOf(metrics: string, series: string): number | undefined {
  const line = metrics.split('\n').find(each => each.startsWith(`${series} `))
  return line === undefined ? undefined : Number(line.slice(series.length + 1))
}

/** A service of two processes, with a model that answers what it is asked. */
export async function startTwo(t: Test, settings: Readonly<Record<string, string | number | undefined>> = {}) {
  const dir = modelsFolder(t, { 'copy/1/model.onnx': identity() })
  const service = await startService(t, {
    MODELS_DIR: dir,
    WEB_PROCESSES: 2,
    INFERENCE_THREADS: 2,
    OPS_PORT: 0,
    ADMIN_TOKEN: TOKEN,
    KEYS_STORE: `${t.testdir()}/keys.jsonl`,
    RATE_LIMIT_WINDOW: '1h',
    ...settings,
  })
  const { url, child } = service
  const [, ops = ''] = /health, metrics and admin on (http:[^"]+)/.exec(service.output()) ?? []
  const predict = (more: Asked = {}) => ask(`${url}/v1/predict`, { body: { features: [1, 2, 3] }, ...more })
  const pid = child.pid as number
  return {
    ...service,
    dir,
    ops,
    predict,
    metrics: async (of = url) => (await ask(`${of}/metrics`)).text,
    /** Those that serve. */
    pids: () => readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean).map(Number),
    /** Waits until `/health/ready` says this, whoever answers. */
    readyAs: (status: string) =>
      until(`it is ${status}`, async () => JSON.parse((await ask(`${url}/health/ready`)).text).status === status),
  }
}

export const statusesOf = (answers: readonly Answer[]) => answers.map(({ status }) => status).sort()
