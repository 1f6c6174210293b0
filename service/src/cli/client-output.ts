/** What `call` shows: lines for people, over a bar on a terminal, or a JSON object a line for programs. */
import { setTimeout as delay } from 'node:timers/promises'
import { coloursOf, type Io, isTerminal } from './io.js'
import { progress } from './progress.js'
import { STATUS_HEADINGS, STATUS_NUMBERS, Statuses } from './statuses.js'
import { table } from './table.js'

export interface Prediction {
  readonly label?: string
  readonly score?: number
  readonly outputs?: Readonly<Record<string, unknown>>
}

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
      readonly predictions: readonly Prediction[] | undefined
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

type AnswerEvent = Extract<ClientEvent, { event: 'answer' }>

export interface Printer {
  print(event: ClientEvent): void
  /** Waits, visibly where somebody watches. */
  countDown(seconds: number, signal: AbortSignal): Promise<void>
  /** Nothing moves any more; lines may still come. */
  stop(): void
}

/** Says nothing. */
export const silent: Printer = { print: () => {}, countDown: async () => {}, stop: () => {} }

export function printer({ stdout, env }: Io, json: boolean, requests: number): Printer {
  if (json) {
    return {
      print: event => stdout.write(`${JSON.stringify(event)}\n`),
      countDown: (seconds, signal) => delay(seconds * 1000, undefined, { signal }),
      stop: () => {},
    }
  }
  const colours = coloursOf(stdout, env)
  const bar = progress(stdout, env, requests)
  const statuses = new Statuses()
  let done = 0

  const printAnswer = (event: AnswerEvent): void => {
    const { status, request, ms, waitSeconds, predictions } = event
    const colour = status === 200 ? colours.green : status === 429 ? colours.yellow : colours.red
    bar.line(lineOf(event, requests, colour))
    if (request === 0) return
    statuses.record(status, ms)
    if (waitSeconds === undefined) done++
    bar.update(done, '')
    // One alone is what was asked for, so it is shown whole.
    if (requests === 1 && predictions !== undefined) {
      const rows = predictions.map(({ label = '', score, outputs }, row) => [
        row + 1,
        label,
        score?.toFixed(4) ?? '',
        outputs === undefined ? '' : clip(JSON.stringify(outputs)),
      ])
      bar.line(table(stdout, env, ['row', 'label', 'score', 'outputs'], rows, [0, 2]).trimEnd())
    }
  }

  return {
    print: event => {
      if (event.event === 'answer') return printAnswer(event)
      if (isTerminal(stdout, env) && statuses.total > 1) {
        stdout.write(table(stdout, env, STATUS_HEADINGS, statuses.rows(), STATUS_NUMBERS))
      }
      stdout.write(`${summaryOf(event)}\n`)
    },
    countDown: async (seconds, signal) => {
      const until = performance.now() + seconds * 1000
      for (let left = seconds * 1000; left > 0; left = until - performance.now()) {
        bar.update(done, `waiting ${Math.ceil(left / 1000)} s`)
        await delay(Math.min(left, left % 1000 || 1000), undefined, { signal })
      }
      bar.update(done, '')
    },
    stop: () => bar.stop(),
  }
}

function summaryOf(event: Extract<ClientEvent, { event: 'summary' }>): string {
  const { requests, answered, failed, tries, waitedSeconds, seconds } = event
  return `${answered} of ${requests} answered, ${failed} failed; ${tries} tries in ${seconds} s, ${waitedSeconds} s of them waiting`
}

function lineOf(event: AnswerEvent, requests: number, colour: (text: string) => string): string {
  const { request, status, ms, waitSeconds } = event
  const width = String(requests).length
  const number = request === 0 ? 'models'.padEnd(2 * width + 1) : `${String(request).padStart(width)}/${requests}`
  const columns = [number, colour(status === 0 ? '---' : String(status)), whatOf(event), quotaOf(event), `${ms} ms`]
  const line = columns.filter(column => column !== '').join('  ')
  return waitSeconds === undefined ? line : `${line}; again in ${waitSeconds} s`
}

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

const clip = (text: string): string => (text.length > 90 ? `${text.slice(0, 89)}…` : text)
