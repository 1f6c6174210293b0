/** What the first process and those that serve say to each other, as JSON. */

/** What one process asks all of them, itself included. */
export type Question = 'ready' | 'metrics' | 'reload' | 'load' | 'keys' | 'usage' | 'sample'

/** Milliseconds that an answer may take. Infinity: as long as its process lives. */
export const PATIENCE_MS: Readonly<Record<Question, number>> = {
  ready: 1000,
  metrics: 2000,
  // It loads and tries models.
  reload: Number.POSITIVE_INFINITY,
  load: Number.POSITIVE_INFINITY,
  keys: 1000,
  usage: 3000,
  sample: 400,
}

/** Of one process. `late`: none in time, or it ended; `starting`: it cannot answer yet. */
export type OneAnswer<T> = { readonly value: T } | { readonly error: string } | 'late' | 'starting'

/** Of all processes. */
export interface Answers<T> {
  /** How many there should be. */
  readonly expected: number
  /** Whether all were ready at once before. */
  readonly wereReady: boolean
  /** Of those that are there. */
  readonly answers: readonly OneAnswer<T>[]
}

export type ToFirst =
  | { readonly kind: 'ask'; readonly id: number; readonly question: Question; readonly data?: unknown }
  | { readonly kind: 'answer'; readonly id: number; readonly answer: OneAnswer<unknown> }
  | { readonly kind: 'counts'; readonly id: number; readonly batch: unknown }
  /** Whether samples of the live figures are wanted. */
  | { readonly kind: 'watch'; readonly wants: boolean }
  | { readonly kind: 'listening'; readonly main: string; readonly ops: string | undefined }
  | { readonly kind: 'ready'; readonly models: readonly string[] }
  | { readonly kind: 'failed'; readonly message: string }

export type FromFirst =
  | { readonly kind: 'question'; readonly id: number; readonly question: Question; readonly data?: unknown }
  | { readonly kind: 'answers'; readonly id: number; readonly answers: Answers<unknown> }
  | { readonly kind: 'counted'; readonly id: number; readonly result: unknown }
  | { readonly kind: 'freed'; readonly notice: unknown }
  | { readonly kind: 'samples'; readonly answers: Answers<unknown> }
  | { readonly kind: 'stop' }
  | { readonly kind: 'end'; readonly reason: string }

/** The values among answers. */
export function valuesOf<T>({ answers }: Answers<T>): T[] {
  return answers.flatMap(answer => (typeof answer === 'object' && 'value' in answer ? [answer.value] : []))
}
