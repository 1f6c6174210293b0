/** The two ways to have a worker: a thread of this process, or a process of its own. */
import { type ChildProcess, fork } from 'node:child_process'
import { Worker } from 'node:worker_threads'
import type { FromWorker, ToWorker } from './worker-messages.js'

// Before anything can load the runtime: it would queue the names of models for an upload host of its maker. A worker
// cannot set this for itself, since the library reads the environment of the process.
process.env.ORT_DISABLE_TELEMETRY = '1'

/** Where models run. `process`: one that crashes natively takes down its worker, not the service. */
export type Isolation = 'thread' | 'process'

export interface WorkerPort {
  /** Process id, of a process. */
  readonly pid: number | undefined
  /** False from when the way to the worker is cut, which can be a while before its end is told. */
  readonly connected: boolean
  /** `moved` buffers are handed over where memory can be: the sender loses them. */
  post(message: ToWorker, moved: ArrayBuffer[]): void
  onMessage(listener: (message: FromWorker) => void): void
  /** Called once, with why, when the worker has ended. */
  onExit(listener: (reason: string) => void): void
  /** Ends a worker that hangs. Possible for processes only: stopping a thread inside the runtime aborts everything. */
  kill(): boolean
}

// As it was built, also under a test's loader, which would take seconds to compile it in each worker.
const isSource = import.meta.url.endsWith('.ts')
const workerFile = new URL(isSource ? '../../../dist/inference/workers/worker.js' : './worker.js', import.meta.url)

export function openPort(isolation: Isolation): WorkerPort {
  return isolation === 'thread' ? threadPort(new Worker(workerFile, { execArgv: [] })) : processPort(forkWorker())
}

function threadPort(worker: Worker): WorkerPort {
  let reason: string | undefined
  worker.on('error', error => {
    reason = error instanceof Error ? error.message : String(error)
  })
  return {
    pid: undefined,
    connected: true,
    post: (message, moved) => worker.postMessage(message, moved),
    onMessage: listener => worker.on('message', listener),
    onExit: listener => worker.on('exit', code => listener(reason ?? `exit code ${code}`)),
    kill: () => false,
  }
}

const forkWorker = (): ChildProcess =>
  fork(workerFile, {
    serialization: 'advanced',
    stdio: ['ignore', 'inherit', 'inherit', 'ipc'],
    execArgv: [],
    env: { ...process.env, ML_API_PARENT: String(process.pid) },
  })

function processPort(child: ChildProcess): WorkerPort {
  let failure: string | undefined
  let told = false
  return {
    pid: child.pid,
    get connected() {
      return child.connected
    },
    post: message => {
      // A channel that has just closed is told by `exit`; a throw here would be told to the wrong one.
      if (child.connected) child.send(message as never, () => {})
    },
    onMessage: listener => child.on('message', message => listener(message as FromWorker)),
    onExit: listener => {
      const tell = (reason: string) => {
        if (told) return
        told = true
        listener(reason)
      }
      child.on('error', error => {
        failure = error.message
        // A process that never started has no exit.
        if (child.pid === undefined) tell(failure)
      })
      child.on('exit', (code, signal) => tell(signal ?? failure ?? `exit code ${code}`))
    },
    kill: () => child.kill('SIGKILL'),
  }
}
