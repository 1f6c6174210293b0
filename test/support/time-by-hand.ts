/** The monotonic clock and the timers of the plugin, moved by a test. */
import { performance } from 'node:perf_hooks'
import timers from 'node:timers'

interface Timer {
  at: number
  /** Milliseconds after which it runs again. */
  everyMs: number | undefined
  readonly act: () => void
  unref(): Timer
  repeat(everyMs: number): Timer
}

/** Milliseconds. Timers that are due run in the order of their times, and what was scheduled first runs first. */
export class TimeByHand {
  now: number
  #timers: Timer[] = []

  constructor(now: number) {
    this.now = now
  }

  /** Timers that have not run yet. */
  get waiting(): number {
    return this.#timers.length
  }

  /** When the next timer runs; Infinity without one. */
  get next(): number {
    return Math.min(...this.#timers.map(({ at }) => at))
  }

  /** Runs what is due on the way; promises in between are not waited for. */
  advance(ms: number): void {
    this.#run(this.now + ms, () => true)
  }

  /** As `advance`; what is scheduled on the way does not run yet. */
  step(ms: number): void {
    const known = this.#timers
    this.#run(this.now + ms, timer => known.includes(timer))
  }

  #run(end: number, isMeant: (timer: Timer) => boolean): void {
    for (;;) {
      const due = this.#timers.filter(timer => timer.at <= end && isMeant(timer))
      const at = Math.min(...due.map(({ at }) => at))
      const next = due.find(timer => timer.at === at)
      if (next === undefined) break
      if (next.everyMs === undefined) this.clear(next)
      else next.at += next.everyMs
      this.now = Math.max(this.now, at)
      next.act()
    }
    this.now = end
  }

  /** As `advance`, where what runs waits for promises. */
  async pass(ms: number): Promise<void> {
    for (const end = this.now + ms; ; ) {
      await new Promise(resolve => setImmediate(resolve))
      const { next } = this
      if (next > end) {
        this.now = end
        return
      }
      this.advance(Math.max(0, next - this.now))
    }
  }

  add(act: (...args: unknown[]) => void, ms: number, ...args: unknown[]): Timer {
    const timer: Timer = {
      at: this.now + ms,
      everyMs: undefined,
      act: () => act(...args),
      unref: () => timer,
      repeat: everyMs => Object.assign(timer, { everyMs }),
    }
    this.#timers.push(timer)
    return timer
  }

  clearAll(): void {
    this.#timers = []
  }

  clear(timer: unknown): void {
    this.#timers = this.#timers.filter(one => one !== timer)
  }
}

/**
 * Imports modules of the plugin that nothing has imported yet, as they take clock and timers when they are imported. From
 * then on theirs are those that are returned.
 */
export async function atTimeByHand<T>(load: () => Promise<T>, now = 10_000): Promise<{ time: TimeByHand; modules: T }> {
  const time = new TimeByHand(now)
  const real = { ...timers, now: Object.getOwnPropertyDescriptor(performance, 'now') }
  const setTimeout = (act: () => void, ms = 1, ...args: unknown[]) => time.add(act, ms, ...args)
  const setImmediate = (act: () => void, ...args: unknown[]) => time.add(act, 0, ...args)
  const setInterval = (act: () => void, ms = 1, ...args: unknown[]) => time.add(act, ms, ...args).repeat(ms)
  const clearTimeout = (timer: unknown) => time.clear(timer)
  Object.assign(timers, { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval: clearTimeout })
  Object.defineProperty(performance, 'now', { configurable: true, writable: true, value: () => time.now })
  try {
    const { monotonic } = await import('../../plugin/src/clock.js')
    if (monotonic() !== now) throw new Error('the plugin was imported before')
    return { time, modules: await load() }
  } finally {
    const { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval } = real
    Object.assign(timers, { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval })
    if (real.now === undefined) Reflect.deleteProperty(performance, 'now')
    else Object.defineProperty(performance, 'now', real.now)
  }
}
