/**
 * Time, and the timers of Node.js itself. A test that stops time must stop the windows it looks at, and must not stop
 * the calls to the store. Test runners replace the globals, before or after this module is imported. Some replace what
 * stands in `node:timers` too, but only while a test runs, so each timer is taken from there once.
 */
import { performance } from 'node:perf_hooks'
import timers from 'node:timers'

export const { setTimeout, clearTimeout, setInterval, clearInterval, setImmediate } = timers

const { Date: importedDate } = globalThis
const importedNow = importedDate.now

/** False where a test runner had replaced `Date` before this module was imported. */
const isGenuine = [importedDate, importedNow].every(one =>
  Function.prototype.toString.call(one).includes('[native code]'),
)

const performanceNow = performance.now.bind(performance)
const originMs = importedNow() - performanceNow()

/** Milliseconds since the process started. Never steps back, and does not follow the timers of a test runner. */
export function monotonic(): number {
  return performanceNow()
}

/**
 * The time in which windows are counted in the process: milliseconds since 1970 when the process starts, and never
 * adjusted after that, so that a step of the system's clock frees no quota and takes none. While a test runner has
 * replaced `Date`, the time of that `Date`.
 */
export function now(): number {
  return isGenuine && Date === importedDate && Date.now === importedNow ? originMs + performanceNow() : Date.now()
}
