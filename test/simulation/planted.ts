/**
 * Errors that are planted in the sources, each as one change, to show that the simulation finds them. `from` stands once in
 * its file: where the file changes, the error moves with it.
 */
import type { Plant } from './simulate.mjs'

const log = 'redis/log.lua'
const check = 'redis/check.lua'
const prefetch = 'redis/prefetch.ts'
const outage = 'redis/outage.ts'

export const PLANTED: Readonly<Record<string, Plant>> = {}
