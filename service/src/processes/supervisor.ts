/** Starts the processes that serve, keeps their number, carries what they say to each other, and ends them. */
import cluster, { type Worker } from 'node:cluster'
import { followConnections } from './connections.js'
import type { Log } from './log.js'
import { type Answers, type FromFirst, type OneAnswer, PATIENCE_MS, type Question, type ToFirst } from './messages.js'
import { PLACE } from './peers.js'

/** How long a process that has ended is missing: at least, and at most where it ends again and again. */
const LEAST_RESTART_MS = 100
const MOST_RESTART_MS = 10_000

/** One that served for so long is no part of a row of failures. */
const STEADY_MS = 30_000

/** So many ends in a row, before all were ready for the first time, are a start that fails. */
const MOST_FAILED_STARTS = 3

/** How often the live figures are asked for while somebody watches them. */
const SAMPLE_MS = 500

export interface SupervisorOptions {
  readonly count: number
  readonly log: Log
  /** Answers calls for counts; undefined where they are counted elsewhere. */
  readonly counts: { answer(batch: unknown, from: number): unknown; leave(from: number): void } | undefined
  /** Changes what all answered, before it is told to the process that asked. */
  readonly completed: (question: Question, answers: Answers<unknown>, pids: readonly number[]) => Answers<unknown>
  /** What a process that has just begun to listen is asked, as all others were before it. */
  readonly catchUp: () => readonly (readonly [question: Question, data: unknown])[]
  /** A process asks all. */
  readonly asked: (question: Question, data: unknown) => void
  /** A process ended. */
  readonly ended: (pid: number) => void
  /** All are ready for the first time. */
  readonly ready: (models: readonly string[]) => void
  /** The first one listens. */
  readonly listening: (main: string, ops: string | undefined) => void
  /** It cannot be started. All processes have ended. */
  readonly failed: (message: string) => void
}

interface Process {
  readonly worker: Worker
  readonly index: number
  /** The settings of its ports. */
  readonly ports: Readonly<Record<string, string>>
  isListening: boolean
  isReady: boolean
  readySince: number
  wantsSamples: boolean
  /** What it said of why it cannot start. */
  failure: string | undefined
}

interface Round {
  readonly answers: Map<Process, OneAnswer<unknown>>
  readonly settle: () => void
}

export class Supervisor {
  readonly #options: SupervisorOptions
  readonly #processes = new Set<Process>()
  readonly #rounds = new Map<number, Round>()
  readonly #restarts = new Set<NodeJS.Timeout>()
  /** Ends in a row, by place. */
  readonly #failures = new Map<number, number>()
  #lastRound = 0
  #wereReady = false
  #hasListened = false
  /** Settings of the ports for processes to come: known once one listens on ports that the system chose. */
  #ports: Readonly<Record<string, string>> = {}
  #sampling: NodeJS.Timeout | undefined
  #isStopping = false
  #worstCode = 0
  #whenEnded: ((code: number) => void) | undefined
  /** Processes that ended unasked. */
  lost = 0

  constructor(options: SupervisorOptions) {
    this.#options = options
    cluster.on('message', (worker, message) => this.#hear(worker, message as ToFirst))
    cluster.on('exit', (worker, code, signal) => this.#exited(worker, code, signal))
  }

  start(): void {
    for (let index = 0; index < this.#options.count; index++) this.#fork(index)
  }

  /** How many processes there are. */
  get size(): number {
    return this.#processes.size
  }

  /** Sends something to all but `except`, which is named by its number. */
  tellAll(message: FromFirst, except?: number): void {
    for (const { worker } of this.#processes) if (worker.id !== except) send(worker, message)
  }

  /** Asks all processes. */
  async ask(question: Question, data?: unknown, asked = [...this.#processes]): Promise<Answers<unknown>> {
    const { count, completed } = this.#options
    const id = ++this.#lastRound
    const answers = new Map<Process, OneAnswer<unknown>>()
    await new Promise<void>(resolve => {
      const ms = PATIENCE_MS[question]
      const timer = Number.isFinite(ms) ? setTimeout(resolve, ms) : undefined
      const settle = () => {
        if (answers.size < asked.length) return
        clearTimeout(timer)
        resolve()
      }
      this.#rounds.set(id, { answers, settle })
      for (const { worker } of asked) send(worker, { kind: 'question', id, question, data })
      settle()
    })
    this.#rounds.delete(id)
    const all = {
      expected: count,
      wereReady: this.#wereReady,
      answers: asked.map(each => answers.get(each) ?? 'late'),
    }
    return completed(
      question,
      all,
      asked.map(({ worker }) => worker.process.pid ?? 0),
    )
  }

  /** Ends all processes well. Resolves with the exit code: 0 where each of them ended well. */
  stop(): Promise<number> {
    this.#isStopping = true
    for (const timer of this.#restarts) clearTimeout(timer)
    clearInterval(this.#sampling)
    for (const { worker, isListening } of this.#processes) {
      if (isListening) send(worker, { kind: 'stop' })
      else worker.process.kill('SIGKILL')
    }
    return new Promise(resolve => {
      this.#whenEnded = resolve
      if (this.#processes.size === 0) resolve(this.#worstCode)
    })
  }

  /** Ends all processes at once. */
  kill(): void {
    this.#isStopping = true
    for (const { worker } of this.#processes) worker.process.kill('SIGKILL')
  }

  #fork(index: number): void {
    // While some listen on ports that the system chose, those are had by asking as they did.
    const [another] = this.#processes
    const ports = another?.ports ?? this.#ports
    const worker = cluster.fork({ ...ports, [PLACE]: `${index}/${this.#options.count}` })
    followConnections(worker.process, () =>
      [...this.#processes].some(each => each.worker !== worker && each.isListening && each.worker.isConnected()),
    )
    this.#processes.add({
      ...{ worker, index, ports, isListening: false, isReady: false, readySince: 0, wantsSamples: false },
      failure: undefined,
    })
  }

  #of(worker: Worker): Process | undefined {
    for (const each of this.#processes) if (each.worker === worker) return each
    return undefined
  }

  #hear(worker: Worker, message: ToFirst): void {
    const from = this.#of(worker)
    if (from === undefined) return
    switch (message.kind) {
      case 'counts':
        this.#count(worker, message.id, message.batch)
        return
      case 'answer': {
        const round = this.#rounds.get(message.id)
        round?.answers.set(from, message.answer)
        round?.settle()
        return
      }
      case 'ask':
        this.#options.asked(message.question, message.data)
        void this.ask(message.question, message.data).then(answers =>
          send(worker, { kind: 'answers', id: message.id, answers }),
        )
        return
      case 'watch':
        from.wantsSamples = message.wants
        this.#sample()
        return
      case 'listening':
        from.isListening = true
        this.#listens(message.main, message.ops)
        for (const [question, data] of this.#options.catchUp()) void this.ask(question, data, [from])
        if (this.#isStopping) send(worker, { kind: 'stop' })
        return
      case 'ready':
        from.isReady = true
        from.readySince = performance.now()
        this.#noteReady(message.models)
        return
      case 'failed':
        from.failure = message.message
    }
  }

  #count(worker: Worker, id: number, batch: unknown): void {
    const result = this.#options.counts?.answer(batch, worker.id)
    send(worker, { kind: 'counted', id, result })
  }

  #listens(main: string, ops: string | undefined): void {
    this.#ports = { PORT: new URL(main).port, ...(ops === undefined ? {} : { OPS_PORT: new URL(ops).port }) }
    if (this.#hasListened) return
    this.#hasListened = true
    this.#options.listening(main, ops)
  }

  #noteReady(models: readonly string[]): void {
    const all = [...this.#processes]
    if (this.#wereReady || all.length < this.#options.count || !all.every(({ isReady }) => isReady)) return
    this.#wereReady = true
    this.#options.ready(models)
  }

  /** Asks for the live figures while somebody watches them. */
  #sample(): void {
    const isWatched = [...this.#processes].some(({ wantsSamples }) => wantsSamples)
    if (!isWatched) {
      clearInterval(this.#sampling)
      this.#sampling = undefined
    } else if (this.#sampling === undefined) {
      // What was counted while nobody watched is not of this moment.
      void this.ask('sample')
      this.#sampling = setInterval(async () => {
        const answers = await this.ask('sample')
        for (const { worker, wantsSamples } of this.#processes)
          if (wantsSamples) send(worker, { kind: 'samples', answers })
      }, SAMPLE_MS)
    }
  }

  #exited(worker: Worker, code: number | null, signal: string | null): void {
    const gone = this.#of(worker)
    if (gone === undefined) return
    this.#processes.delete(gone)
    this.#options.counts?.leave(worker.id)
    this.#options.ended(worker.process.pid ?? 0)
    for (const round of this.#rounds.values()) {
      if (!round.answers.has(gone)) round.answers.set(gone, 'late')
      round.settle()
    }
    if (gone.wantsSamples) this.#sample()
    if (this.#isStopping) {
      // One that was killed while it started had nothing to lose.
      if (gone.isListening && code !== 0) this.#worstCode = 1
      if (this.#processes.size === 0) this.#whenEnded?.(this.#worstCode)
      return
    }
    this.lost++
    const wasSteady = gone.isReady && performance.now() - gone.readySince > STEADY_MS
    const failures = wasSteady ? 1 : (this.#failures.get(gone.index) ?? 0) + 1
    this.#failures.set(gone.index, failures)
    if (!this.#wereReady && (gone.failure !== undefined || failures >= MOST_FAILED_STARTS)) {
      const how = signal === null ? `with ${code}` : `by ${signal}`
      void this.#fail(gone.failure ?? `a process ended ${how}, ${failures} times in a row, before it was ready`)
      return
    }
    const afterMs = Math.min(MOST_RESTART_MS, LEAST_RESTART_MS * 2 ** (failures - 1))
    const details = { process: { pid: worker.process.pid, index: gone.index, code, signal, failure: gone.failure } }
    this.#options.log.error(details, `a process has ended; another takes its place in ${afterMs} ms`)
    const timer = setTimeout(() => {
      this.#restarts.delete(timer)
      this.#fork(gone.index)
    }, afterMs)
    this.#restarts.add(timer)
  }

  async #fail(message: string): Promise<void> {
    for (const timer of this.#restarts) clearTimeout(timer)
    this.kill()
    await new Promise<void>(resolve => {
      this.#whenEnded = () => resolve()
      if (this.#processes.size === 0) resolve()
    })
    this.#options.failed(message)
  }
}

/** To one that has just ended nothing can be said. */
function send(worker: Worker, message: FromFirst): void {
  if (worker.isConnected()) worker.process.send?.(message, () => {})
}
