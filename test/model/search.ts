/** A breadth-first search over all states of a model, to the end: the first fault that it finds has the shortest history. */

/** Called for each thing that may happen next. `problem`: what is wrong with it, where that does not show in the state. */
export type Visit<State> = (action: string, who: number, units: number, next: State, problem?: string) => void

/** A protocol as a state machine. Times in a state count from the present, so that histories of any length end in few states. */
export interface Model<State> {
  readonly start: State
  /** The same text for states that differ only by the names of their replicas. */
  encode(state: State): string
  /** Everything that may happen next. */
  next(state: State, visit: Visit<State>): void
  /** What is wrong with a state; undefined where nothing is. */
  problem(state: State): string | undefined
  /** One step of a history in words. */
  say(action: string, who: number, units: number): string
  /** What a history shows of a state, by column. */
  show(state: State): Readonly<Record<string, string>>
}

export interface Step {
  readonly what: string
  /** The state after it, by column. */
  readonly shown: Readonly<Record<string, string>>
}

export interface Fault {
  readonly problem: string
  /** The shortest history that leads to it; the first step is the start. */
  readonly history: readonly Step[]
}

export interface Result {
  readonly states: number
  readonly transitions: number
  /** Steps from the start to the states that are farthest from it. */
  readonly depth: number
  /** Whether there is nothing more to find: false where a fault ended the search, or `mostStates`. */
  readonly complete: boolean
  /** How often each action was taken. */
  readonly actions: ReadonlyMap<string, number>
  readonly fault: Fault | undefined
}

/** Searches until a fault is found, no state is left, or `mostStates` were found, which memory has room for. */
export function search<State>(model: Model<State>, mostStates = 6_000_000): Result {
  const known = new Map<string, number>()
  const parents: number[] = []
  const actions = new Map<string, number>()
  let transitions = 0
  let depth = -1
  let level: State[] = []
  let found: { from: number; problem: string; last: string } | undefined
  let following: State[] = []
  let ids: number[] = []
  let followingIds: number[] = []
  let parent = -1
  let present: State | undefined

  const visit: Visit<State> = (action, _who, _units, next, problem) => {
    if (found !== undefined) return
    transitions++
    actions.set(action, (actions.get(action) ?? 0) + 1)
    if (next === present && problem === undefined) return
    const text = model.encode(next)
    const isKnown = known.has(text)
    const wrong = problem ?? (isKnown ? undefined : model.problem(next))
    if (wrong !== undefined) found = { from: parent, problem: wrong, last: text }
    if (isKnown || wrong !== undefined) return
    const id = known.size
    known.set(text, id)
    parents.push(parent)
    following.push(next)
    followingIds.push(id)
  }

  known.set(model.encode(model.start), 0)
  parents.push(-1)
  following.push(model.start)
  followingIds.push(0)
  while (following.length > 0 && found === undefined && known.size < mostStates) {
    depth++
    level = following
    ids = followingIds
    following = []
    followingIds = []
    for (let index = 0; index < level.length && found === undefined; index++) {
      parent = ids[index] as number
      present = level[index] as State
      model.next(present, visit)
    }
  }
  const fault = found && { problem: found.problem, history: historyOf(model, found, known, parents) }
  return {
    states: known.size,
    transitions,
    depth,
    complete: fault === undefined && following.length === 0,
    actions,
    fault,
  }
}

/** Takes the steps again, with the replicas named as they were at the start. */
function historyOf<State>(
  model: Model<State>,
  { from, problem, last }: { from: number; problem: string; last: string },
  known: ReadonlyMap<string, number>,
  parents: readonly number[],
): Step[] {
  const wanted = new Set<number>()
  for (let id = from; id >= 0; id = parents[id] as number) wanted.add(id)
  const texts: string[] = []
  for (const [text, id] of known) if (wanted.has(id)) texts.push(text)
  // The first is the start, and a state is found after its parent: by their numbers they are in order.
  const steps: Step[] = [{ what: 'start', shown: model.show(model.start) }]
  let state = model.start
  for (const goal of [...texts.slice(1), last]) {
    const isLast = goal === last && steps.length === texts.length
    let taken: State | undefined
    model.next(state, (action, who, units, next, wrong) => {
      if (taken !== undefined || model.encode(next) !== goal) return
      if (isLast && (wrong ?? model.problem(next)) !== problem) return
      taken = next
      steps.push({ what: model.say(action, who, units), shown: model.show(next) })
    })
    if (taken === undefined) throw new Error('the history of a fault cannot be taken again')
    state = taken
  }
  return steps
}

/** A history as a table. */
export function tableOf({ problem, history }: Fault): string {
  const columns = Object.keys(history[0]?.shown ?? {})
  const rows = [['', 'what happens', ...columns]]
  for (const [index, { what, shown }] of history.entries()) {
    rows.push([String(index), what, ...columns.map(column => shown[column] ?? '')])
  }
  const widths = (rows[0] as string[]).map((_cell, column) =>
    Math.max(...rows.map(row => [...(row[column] ?? '')].length)),
  )
  const line = (row: readonly string[]) =>
    `| ${row.map((cell, column) => cell + ' '.repeat((widths[column] as number) - [...cell].length)).join(' | ')} |`
  const [head, ...body] = rows as [string[], ...string[][]]
  const rule = `|${widths.map(width => '-'.repeat(width + 2)).join('|')}|`
  return [line(head), rule, ...body.map(line), '', `wrong: ${problem}`].join('\n')
}
