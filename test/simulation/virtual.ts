/**
 * Time, timers and chance of the plugin, in the hands of a simulation. Import this before anything of the plugin: it takes
 * its timers and clocks when it is imported. While no simulation runs they are those of Node.js.
 */
import crypto from 'node:crypto'
import { syncBuiltinESMExports } from 'node:module'
import { performance } from 'node:perf_hooks'
import timers from 'node:timers'

/** A process, as the code that runs in it sees it. */
export interface Environment {
  /** Milliseconds of its monotonic clock. */
  monotonic(): number
  setTimeout(act: () => void, ms: number, repeats: boolean): Timer
  setImmediate(act: () => void): void
  /** A number from 0 up to and without 1. */
  chance(): number
}

/** What timers are, as far as the plugin uses them. */
export interface Timer {
  unref(): Timer
  cancel(): void
}

/** The process whose code runs at present. */
let environment: Environment | undefined

export function enter(next: Environment | undefined): void {
  environment = next
}

/** Milliseconds since 1970 at which the wall clock of each simulated process stands at its start. */
export const WALL_MS = 1_700_000_000_000

type Act = (...args: unknown[]) => void

const real = {
  ...timers,
  now: performance.now.bind(performance),
  dateNow: Date.now,
  random: Math.random,
  randomBytes: crypto.randomBytes,
  randomUUID: crypto.randomUUID,
}

const simulated = {
  setTimeout: (act: Act, ms = 1, ...args: unknown[]) =>
    environment?.setTimeout(() => act(...args), ms, false) ?? real.setTimeout(act, ms, ...args),
  setInterval: (act: Act, ms = 1, ...args: unknown[]) =>
    environment?.setTimeout(() => act(...args), ms, true) ?? real.setInterval(act, ms, ...args),
  setImmediate: (act: Act, ...args: unknown[]) =>
    environment === undefined ? real.setImmediate(act, ...args) : environment.setImmediate(() => act(...args)),
  clearTimeout: (timer: unknown) => clear(timer),
  clearInterval: (timer: unknown) => clear(timer),
}

function clear(timer: unknown): void {
  if (typeof (timer as Timer | undefined)?.cancel === 'function') (timer as Timer).cancel()
  else real.clearTimeout(timer as NodeJS.Timeout)
}

function randomBytes(size: number): Buffer {
  const bytes = Buffer.alloc(size)
  for (let index = 0; index < size; index++) bytes[index] = Math.floor(chance() * 256)
  return bytes
}

function randomUUID(): string {
  const hex = randomBytes(16).toString('hex')
  return [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20)].join('-')
}

function chance(): number {
  return environment === undefined ? real.random() : environment.chance()
}

/** Bound functions look as native ones do: the plugin tells by that whether a test runner has replaced `Date`. */
function dateNow(): number {
  return environment === undefined ? real.dateNow() : WALL_MS + environment.monotonic()
}

let isImporting = true

Date.now = (() => (isImporting ? WALL_MS : dateNow())).bind(null)
Math.random = chance
Object.assign(timers, simulated)
Object.defineProperty(performance, 'now', {
  configurable: true,
  writable: true,
  value: () => environment?.monotonic() ?? (isImporting ? 0 : real.now()),
})
Object.assign(crypto, {
  randomBytes: (size: number) => (environment === undefined ? real.randomBytes(size) : randomBytes(size)),
  randomUUID: () => (environment === undefined ? real.randomUUID() : randomUUID()),
})
syncBuiltinESMExports()

/** Call it once the plugin is imported: what else runs in this process has its own timers back. */
export function imported(): void {
  isImporting = false
  const { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval } = real
  Object.assign(timers, { setTimeout, setInterval, setImmediate, clearTimeout, clearInterval })
  syncBuiltinESMExports()
}
