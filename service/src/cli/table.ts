/** Rows under headings: with lines on a terminal, in plain columns elsewhere, so that grep and awk can read them. */
import Table from 'cli-table3'
import { coloursOf, type Io, isTerminal, type Output } from './io.js'

export type Row = readonly (string | number)[]

/** `numbers`: columns, from 0, that stand to the right. */
export function table(
  output: Output,
  env: Io['env'],
  headings: readonly string[],
  rows: readonly Row[],
  numbers: readonly number[] = [],
): string {
  const colours = coloursOf(output, env)
  const onTerminal = isTerminal(output, env)
  const aligned = headings.map((_, column) => (numbers.includes(column) ? ('right' as const) : ('left' as const)))
  const drawn = new Table({
    head: headings.map(colours.bold),
    colAligns: aligned,
    style: { head: [], border: [] },
    ...(onTerminal ? { chars: LINES } : { chars: NO_LINES, style: { head: [], border: [], 'padding-left': 0 } }),
  })
  drawn.push(...rows.map(row => [...row]))
  return `${drawn
    .toString()
    .split('\n')
    .map(line => line.trimEnd())
    .join('\n')}\n`
}

/** Lines around and under the headings, none between the rows. */
const LINES = { mid: '', 'left-mid': '', 'mid-mid': '', 'right-mid': '' } as const
const NO_LINES = {
  ...LINES,
  ...{ top: '', 'top-mid': '', 'top-left': '', 'top-right': '' },
  ...{ bottom: '', 'bottom-mid': '', 'bottom-left': '', 'bottom-right': '' },
  ...{ left: '', right: '', middle: ' ' },
} as const
