/** How far long work is: a bar under what is printed, on a terminal; elsewhere only the lines. */
import cliProgress from 'cli-progress'
import { type Io, isTerminal, type Output } from './io.js'

export interface Progress {
  /** `done` of the total, and a few words behind the bar. */
  update(done: number, words: string): void
  /** A line above the bar. */
  line(text: string): void
  /** Takes the bar away. */
  stop(): void
}

export function progress(output: Output, env: Io['env'], total: number, unit = ''): Progress {
  if (!isTerminal(output, env)) {
    return { update: () => {}, line: text => void output.write(`${text}\n`), stop: () => {} }
  }
  const bars = new cliProgress.MultiBar({
    stream: output as NodeJS.WriteStream,
    format: `{bar} {value}/{total}${unit} {words}`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
    clearOnComplete: true,
    // What ends the command ends the bar.
    gracefulExit: false,
    fps: 10,
  })
  const bar = bars.create(total, 0, { words: '' })
  return {
    update: (done, words) => bar.update(done, { words }),
    line: text => bars.log(`${text}\n`),
    stop: () => {
      // Else lines since the last frame are lost.
      bars.update()
      bars.stop()
    },
  }
}
