/** The two ways to have a worker: a thread of this process, or a process of its own. */
import { type ChildProcess, fork } from 'node:child_process'
import { MessageChannel, receiveMessageOnPort, Worker } from 'node:worker_threads'
import type { FromThread, FromWorker, ToWorker } from './worker-messages.js'

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
  /**
   * Takes the messages that have come in this turn of the event loop, before their turn. Else a worker whose run has ended
   * waits until every socket with something to read was read. Nothing where the worker is a process. Costs some nanoseconds.
   */
  takeMessages(): void
  /** Called once, with why, when the worker has ended. */
  onExit(listener: (reason: string) => void): void
  /** Ends a worker that hangs. Possible for processes only: stopping a thread inside the runtime aborts everything. */
  kill(): boolean
}

// As it was built, also under a test's loader, which would take seconds to compile it in each worker.
const isSource = import.meta.url.endsWith('.ts')
const workerFile = new URL(isSource ? '../../../dist/inference/workers/worker.js' : './worker.js', import.meta.url)

export function openPort(isolation: Isolation): WorkerPort {
  return isolation === 'thread' ? threadPort() : processPort(forkWorker())
}

function threadPort(): WorkerPort {
  const { port1: answers, port2 } = new MessageChannel()
  const sent = new Int32Array(new SharedArrayBuffer(Int32Array.BYTES_PER_ELEMENT))
  const workerData: FromThread = { answers: port2, sent }
  const worker = new Worker(workerFile, { execArgv: [], workerData, transferList: [port2] })
  let seen = 0
  let hear: (message: FromWorker) => void = () => {}
  const drain = () => {
    for (let next = receiveMessageOnPort(answers); next !== undefined; next = receiveMessageOnPort(answers)) {
      hear(next.message)
    }
  }
  let reason: string | undefined
  worker.on('error', error => {
    reason = error instanceof Error ? error.message : String(error)
  })
  return {
    pid: undefined,
    connected: true,
    post: (message, moved) => worker.postMessage(message, moved),
    onMessage: listener => {
      hear = listener
      answers.on('message', listener)
    },
    takeMessages: () => {
      const now = Atomics.load(sent, 0)
      if (now === seen) return
      seen = now
      drain()
    },
    onExit: listener =>
      worker.on('exit', code => {
        drain()
        answers.close()
        listener(reason ?? `exit code ${code}`)
      }),
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
    takeMessages: () => {},
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
