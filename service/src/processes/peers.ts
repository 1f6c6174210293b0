/** One of several processes that serve: its way to the first process, and through that to all others. */
import cluster from 'node:cluster'
import type { Answers, FromFirst, OneAnswer, Question, ToFirst } from './messages.js'

/** Set for each process that serves: its place, and how many there are, such as `0/2`. */
export const PLACE = 'ML_API_RATE_LIMITER_PROCESS'

/** Which of how many processes this is; undefined where it is the only one. */
export function placeIn(environment: Readonly<Record<string, string | undefined>>) {
  const [, index, count] = /^(\d+)\/(\d+)$/.exec(environment[PLACE] ?? '') ?? []
  return index === undefined ? undefined : { index: Number(index), count: Number(count) }
}

/** The part of one process in a whole number that all share. */
export function partOf(whole: number, { index, count }: { readonly index: number; readonly count: number }): number {
  return Math.floor(whole / count) + (index < whole % count ? 1 : 0)
}

type Waiting = { readonly resolve: (value: never) => void; readonly reject: (error: Error) => void }

export class Peers {
  readonly #handlers = new Map<Question, (data: never) => unknown>()
  readonly #waiting = new Map<number, Waiting>()
  readonly #freed: ((notice: unknown) => void)[] = []
  readonly #watchers = new Set<(answers: Answers<never>) => void>()
  #lastId = 0
  #stop: (() => void) | undefined
  #end: ((reason: string) => void) | undefined
  #isStopping = false

  /** Begins to listen to the first process. */
  constructor() {
    // Else it would exit at once when the first process ends, in the middle of a run.
    if (cluster.worker !== undefined) cluster.worker.exitedAfterDisconnect = true
    process.on('message', message => this.#hear(message as FromFirst))
    process.on('disconnect', () => {
      const error = new Error('the first process has ended')
      for (const { reject } of this.#waiting.values()) reject(error)
      this.#waiting.clear()
      if (this.#end === undefined) process.exit(1)
      this.#end('the first process has ended')
    })
  }

  /** The way to counts that the first process holds. */
  readonly counts = {
    ask: (batch: unknown): Promise<unknown> => this.#call(id => ({ kind: 'counts', id, batch })),
    listen: (listener: (notice: unknown) => void): void => {
      this.#freed.push(listener)
    },
  }

  /** Answers a question from now on. Before that, this process says that it is starting. */
  answer<D>(question: Question, handler: (data: D) => unknown): void {
    this.#handlers.set(question, handler)
  }

  /** Asks all processes. Rejects where the first one is gone. */
  ask<T>(question: Question, data?: unknown): Promise<Answers<T>> {
    return this.#call(id => ({ kind: 'ask', id, question, data }))
  }

  /** Calls `watcher` with the samples of all processes, twice a second. Returns what ends that. */
  watch<T>(watcher: (answers: Answers<T>) => void): () => void {
    if (this.#watchers.size === 0) this.tell({ kind: 'watch', wants: true })
    this.#watchers.add(watcher as never)
    return () => {
      this.#watchers.delete(watcher as never)
      if (this.#watchers.size === 0) this.tell({ kind: 'watch', wants: false })
    }
  }

  /** `stop`: when all stop, also where that was said before; `end`: when this process is to end at once. */
  onStop(stop: () => void, end: (reason: string) => void): void {
    this.#stop = stop
    this.#end = end
    if (this.#isStopping) stop()
  }

  /** Says something to the first process. What it cannot hear any more is lost. */
  tell(message: ToFirst): void {
    if (process.connected) process.send?.(message, undefined, undefined, () => {})
  }

  /** Says why this process cannot start, and ends it. */
  async fail(message: string): Promise<never> {
    await new Promise<void>(resolve => {
      if (!process.connected) resolve()
      else process.send?.({ kind: 'failed', message } satisfies ToFirst, undefined, undefined, () => resolve())
    })
    process.exit(1)
  }

  #call<T>(message: (id: number) => ToFirst): Promise<T> {
    return new Promise((resolve, reject) => {
      if (!process.connected) {
        reject(new Error('the first process has ended'))
        return
      }
      const id = ++this.#lastId
      this.#waiting.set(id, { resolve, reject })
      this.tell(message(id))
    })
  }

  #hear(message: FromFirst): void {
    switch (message.kind) {
      case 'counted':
        this.#settle(message.id, message.result)
        return
      case 'answers':
        this.#settle(message.id, message.answers)
        return
      case 'freed':
        for (const listener of this.#freed) listener(message.notice)
        return
      case 'question':
        void this.#answer(message.id, message.question, message.data)
        return
      case 'samples':
        for (const watcher of this.#watchers) watcher(message.answers as Answers<never>)
        return
      case 'stop':
        this.#isStopping = true
        this.#stop?.()
        return
      case 'end':
        this.#end?.(message.reason)
    }
  }

  #settle(id: number, value: unknown): void {
    this.#waiting.get(id)?.resolve(value as never)
    this.#waiting.delete(id)
  }

  async #answer(id: number, question: Question, data: unknown): Promise<void> {
    const handler = this.#handlers.get(question)
    let answer: OneAnswer<unknown> = 'starting'
    try {
      if (handler !== undefined) answer = { value: await handler(data as never) }
    } catch (error) {
      answer = { error: error instanceof Error ? error.message : String(error) }
    }
    this.tell({ kind: 'answer', id, answer })
  }
}
