/** Texts of `/metrics` of several processes as one. Pure. */

/** How values of a metric that is no count become one. Those that are not named are summed, as counts are. */
export const RULES: Readonly<Record<string, 'min' | 'max' | 'mean'>> = {
  process_start_time_seconds: 'min',
  nodejs_version_info: 'max',
  nodejs_eventloop_lag_seconds: 'max',
  nodejs_eventloop_lag_min_seconds: 'min',
  nodejs_eventloop_lag_max_seconds: 'max',
  nodejs_eventloop_lag_mean_seconds: 'mean',
  nodejs_eventloop_lag_stddev_seconds: 'max',
  nodejs_eventloop_lag_p50_seconds: 'max',
  nodejs_eventloop_lag_p90_seconds: 'max',
  nodejs_eventloop_lag_p99_seconds: 'max',
  rate_limit_store_up: 'min',
  rate_limit_store_remote: 'max',
  inference_models_loaded: 'min',
  inference_ready: 'min',
  inference_fairness_index: 'min',
  inference_shadow_largest_difference: 'max',
  gate_delay_seconds: 'max',
}

interface Family {
  readonly type: string
  readonly head: readonly string[]
  /** By name and labels. */
  readonly samples: Map<string, number[]>
}

/**
 * One text of several. `ended`: texts of processes that have ended, whose counts go on, so that no count ever falls.
 * Gauges are theirs no longer.
 */
export function sumOf(texts: readonly string[], ended: readonly string[] = []): string {
  const families = new Map<string, Family>()
  for (const text of texts) read(text, families, () => true)
  for (const text of ended) read(text, families, type => type === 'counter' || type === 'histogram')
  const lines: string[] = []
  for (const [name, { head, samples }] of families) {
    lines.push(...head)
    for (const [key, values] of samples) lines.push(`${key} ${written(combined(RULES[name], values))}`)
    lines.push('')
  }
  return `${lines.join('\n')}\n`
}

function read(text: string, families: Map<string, Family>, isWanted: (type: string) => boolean): void {
  let family: Family | undefined
  let help: string | undefined
  for (const line of text.split('\n')) {
    if (line === '') continue
    if (line.startsWith('# HELP ')) help = line
    else if (line.startsWith('# TYPE ')) {
      const [, , name = '', type = ''] = line.split(' ')
      family = isWanted(type) ? families.get(name) : undefined
      if (family === undefined && isWanted(type)) {
        family = { type, head: help === undefined ? [line] : [help, line], samples: new Map() }
        families.set(name, family)
      }
      help = undefined
    } else if (family !== undefined) {
      const end = line.lastIndexOf(' ')
      const key = line.slice(0, end)
      const values = family.samples.get(key)
      const value = numberOf(line.slice(end + 1))
      if (values === undefined) family.samples.set(key, [value])
      else values.push(value)
    }
  }
}

function combined(rule: 'min' | 'max' | 'mean' | undefined, values: readonly number[]): number {
  if (rule === 'min') return Math.min(...values)
  if (rule === 'max') return Math.max(...values)
  const sum = values.reduce((total, value) => total + value, 0)
  return rule === 'mean' ? sum / values.length : sum
}

// As the format has them.
const numberOf = (text: string): number =>
  text === '+Inf' ? Number.POSITIVE_INFINITY : text === '-Inf' ? Number.NEGATIVE_INFINITY : Number(text)
const written = (value: number): string =>
  value === Number.POSITIVE_INFINITY ? '+Inf' : value === Number.NEGATIVE_INFINITY ? '-Inf' : String(value)
