/** The form of errors under /v2: one text, and the code in a header. */
import type { Fault } from '../http/problem.js'

export const V2_MEDIA_TYPE = 'application/json; charset=utf-8'

/** What the protocol's errors, which are one text, have no member for. */
export const errorCodeField = 'x-error-code'

/** `more`: what a problem document would say in members of its own. */
export const v2ErrorOf = ({ detail }: Fault, more = ''): string => JSON.stringify({ error: detail + more })

/** Whether this URL is to be answered in the protocol's form, also where no route was found. */
export const isV2 = (url: string): boolean => /^\/+v2(?:[/?#]|$)/.test(url)
