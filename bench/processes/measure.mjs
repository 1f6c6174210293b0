import { spawn } from 'node:child_process'
import { readdirSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const ROOT = fileURLToPath(new URL('../..', import.meta.url))
const KINDS = {
  predictions: { RATE_LIMIT_MAX: '1000000000' },
  refusals: { RATE_LIMIT_MAX: '1' },
}

export const kinds = Object.keys(KINDS)

/**
 * A service of so many processes, asked by clients of one process that ask again at once. Answers a second, and the
 * processor time of a request in µs: of the first process, of the main threads, of all other threads, of the load.
 */
export async function measure(kind, processes, { ms, connections, warmMs = 5000, program = 'service/dist/server.js' }) {
  const server = spawn(process.execPath, [program], {
    cwd: ROOT,
    stdio: ['ignore', 'pipe', 'inherit'],
    env: {
      PATH: process.env.PATH,
      HOST: '127.0.0.1',
      PORT: '0',
      // A folder of the user may have keys.
      KEYS_STORE: '/nonexistent/keys.jsonl',
      INFERENCE_THREADS: '2',
      ADMISSION: 'off',
      ...(processes > 1 ? { WEB_PROCESSES: String(processes) } : {}),
      ...KINDS[kind],
    },
  })
  try {
    const port = await new Promise((resolve, reject) => {
      let text = ''
      server.stdout.on('data', data => {
        text += data
        const [, found] = /listening on http:[^"]+:(\d+)/.exec(text) ?? []
        if (found !== undefined && text.includes('ready: all models are loaded')) resolve(Number(found))
      })
      server.once('exit', code => reject(new Error(`the service ended with ${code}`)))
    })
    const load = spawn(process.execPath, [fileURLToPath(new URL('load.mjs', import.meta.url))], {
      stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    })
    const answer = message =>
      new Promise(resolve => {
        load.once('message', resolve)
        load.send(message)
      })
    try {
      await answer({ port, connections })
      await new Promise(resolve => setTimeout(resolve, warmMs))
      const [before, counted, since] = [timesOf(server.pid), await answer('count'), performance.now()]
      await new Promise(resolve => setTimeout(resolve, ms))
      const [after, end] = [timesOf(server.pid), await answer('count')]
      const answered = end.answered - counted.answered
      const each = name => (after[name] - before[name]) / answered
      return {
        perSecond: (answered / (performance.now() - since)) * 1000,
        unexpected: end.unexpected - counted.unexpected,
        first: each('first'),
        main: each('main'),
        worker: each('worker'),
        load: (end.cpu - counted.cpu) / answered,
      }
    } finally {
      load.kill()
    }
  } finally {
    server.kill('SIGKILL')
    await new Promise(resolve => server.once('exit', resolve))
  }
}

/** Processor time so far, in µs. Of a service of one process, the first one is that. */
function timesOf(pid) {
  const children = readFileSync(`/proc/${pid}/task/${pid}/children`, 'utf8').trim().split(' ').filter(Boolean)
  const serving = children.length > 0 ? children : [pid]
  const main = serving.reduce((sum, each) => sum + ranFor(each, each), 0)
  const all = serving.reduce((sum, each) => sum + ofAllThreads(each), 0)
  return { first: children.length > 0 ? ofAllThreads(pid) : 0, main, worker: all - main }
}

const ofAllThreads = pid => readdirSync(`/proc/${pid}/task`).reduce((sum, thread) => sum + ranFor(pid, thread), 0)

const ranFor = (pid, thread) =>
  Number(readFileSync(`/proc/${pid}/task/${thread}/schedstat`, 'utf8').split(' ', 1)[0]) / 1000
