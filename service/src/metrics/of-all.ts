/** What the first of several processes keeps of their metrics, so that no count falls when one of them ends. */
import type { Answers, OneAnswer } from '../processes/messages.js'
import { sumOf } from './sum.js'

/** The texts of the processes that serve, of the first process, and of those that have ended. */
export interface TextsOfAll {
  readonly texts: readonly string[]
  readonly ended: string
}

export class MetricsOfAll {
  /** What each said last, by its number. */
  readonly #last = new Map<number, string>()
  #ended = ''

  /** `pids`: of the processes, in the order of the answers. One that did not answer counts as it did before. */
  texts({ answers }: Answers<string>, pids: readonly number[], processes: number, lost: number): TextsOfAll {
    answers.forEach((answer: OneAnswer<string>, index) => {
      if (typeof answer === 'object' && 'value' in answer) this.#last.set(pids[index] as number, answer.value)
    })
    return { texts: [...this.#last.values(), textOfFirst(processes, lost)], ended: this.#ended }
  }

  ended(pid: number): void {
    const last = this.#last.get(pid)
    this.#last.delete(pid)
    if (last !== undefined) this.#ended = sumOf([], [this.#ended, last])
  }
}

/** Of the first process itself: what it takes, and what it knows of the others. */
function textOfFirst(processes: number, lost: number): string {
  const { user, system } = process.cpuUsage()
  const gauge = (name: string, help: string, value: number) =>
    `# HELP ${name} ${help}\n# TYPE ${name} gauge\n${name} ${value}\n`
  const counter = (name: string, help: string, value: number) =>
    `# HELP ${name} ${help}\n# TYPE ${name} counter\n${name} ${value}\n`
  return [
    counter('process_cpu_user_seconds_total', 'Total user CPU time spent in seconds.', user / 1e6),
    counter('process_cpu_system_seconds_total', 'Total system CPU time spent in seconds.', system / 1e6),
    counter('process_cpu_seconds_total', 'Total user and system CPU time spent in seconds.', (user + system) / 1e6),
    gauge('process_resident_memory_bytes', 'Resident memory size in bytes.', process.memoryUsage.rss()),
    gauge('web_processes', 'Processes that serve, with WEB_PROCESSES above 1.', processes),
    counter('web_processes_lost_total', 'Processes that ended unasked; another takes the place of each.', lost),
  ].join('\n')
}
