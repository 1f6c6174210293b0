/** What the client shows: lines for people, with a countdown on a terminal, or a JSON object a line for programs. */
import { setTimeout as delay } from 'node:timers/promises'

export type ClientEvent =
  | {
      readonly event: 'answer'
      /** From 1; 0 is the question which models there are. */
      readonly request: number
      readonly attempt: number
      /** 0: there was no answer. */
      readonly status: number
      readonly ms: number
      readonly limit: number | undefined
      readonly remaining: number | undefined
      readonly resetSeconds: number | undefined
      /** Seconds until it is tried again; undefined when this answer is the last. */
      readonly waitSeconds: number | undefined
      readonly predictions: readonly { readonly label?: string; readonly score?: number }[] | undefined
      readonly reason: string | undefined
    }
  | {
      readonly event: 'summary'
      readonly requests: number
      readonly answered: number
      readonly failed: number
      readonly tries: number
      readonly waitedSeconds: number
      readonly seconds: number
    }

export interface Printer {
  print(event: ClientEvent): void
  /** Waits, visibly where somebody watches. */
  countDown(seconds: number, signal: AbortSignal): Promise<void>
}

type Output = NodeJS.WritableStream & { readonly isTTY?: boolean }

export function printer(output: Output, json: boolean, requests: number): Printer {
  const wait = (seconds: number, signal: AbortSignal) => delay(seconds * 1000, undefined, { signal })
  if (json) return { print: event => output.write(`${JSON.stringify(event)}\n`), countDown: wait }
  const print = (event: ClientEvent) => output.write(`${lineOf(event, requests)}\n`)
  return { print, countDown: output.isTTY ? (seconds, signal) => countDown(output, seconds, signal) : wait }
}

function lineOf(event: ClientEvent, requests: number): string {
  if (event.event === 'summary') {
    const { answered, failed, tries, waitedSeconds, seconds } = event
    return `${answered} of ${requests} answered, ${failed} failed; ${tries} tries in ${seconds} s, ${waitedSeconds} s of them waiting`
  }
  const { request, status, ms, waitSeconds } = event
  const width = String(requests).length
  const number = request === 0 ? 'models'.padEnd(2 * width + 1) : `${String(request).padStart(width)}/${requests}`
  const columns = [number, status === 0 ? '---' : String(status), whatOf(event), quotaOf(event), `${ms} ms`]
  const line = columns.filter(column => column !== '').join('  ')
  return waitSeconds === undefined ? line : `${line}; again in ${waitSeconds} s`
}

type AnswerEvent = Extract<ClientEvent, { event: 'answer' }>

function whatOf({ predictions, reason = '' }: AnswerEvent): string {
  if (predictions === undefined) return reason
  const [first, ...others] = predictions
  const score = typeof first?.score === 'number' ? ` ${first.score.toFixed(3)}` : ''
  const more = others.length === 0 ? '' : ` and ${others.length} more`
  return `${first?.label ?? 'answered'}${score}${more}`.padEnd(18)
}

function quotaOf({ limit, remaining, resetSeconds }: AnswerEvent): string {
  if (limit === undefined || remaining === undefined) return ''
  return `${remaining} of ${limit} left${resetSeconds === undefined ? '' : `, more in ${resetSeconds} s`}`
}

/** One line that counts the seconds and is gone when they are over. */
async function countDown(output: Output, seconds: number, signal: AbortSignal): Promise<void> {
  const until = performance.now() + seconds * 1000
  try {
    for (;;) {
      const left = until - performance.now()
      if (left <= 0) return
      output.write(`\r\x1b[K  waiting ${Math.ceil(left / 1000)} s`)
      await delay(Math.min(left, left % 1000 || 1000), undefined, { signal })
    }
  } finally {
    output.write('\r\x1b[K')
  }
}
