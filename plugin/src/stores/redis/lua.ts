import { readFileSync } from 'node:fs'

/** The Lua files as text. The build replaces this module by one that holds the texts, so that bundles need no files. */
const read = (name: string): string => readFileSync(new URL(`${name}.lua`, import.meta.url), 'utf8')

export const log: string = read('log')
export const check: string = read('check')
export const refund: string = read('refund')
export const release: string = read('release')
export const renew: string = read('renew')
export const reset: string = read('reset')
export const block: string = read('block')
export const probe: string = read('probe')
export const announce: string = read('announce')
export const mock: string = read('mock')
export const marker: string = read('marker')
export const mark: string = read('mark')
export const restore: string = read('restore')
