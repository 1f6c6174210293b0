/**
 * Counters and histograms that are cheap to add to. This is our own code because those of `prom-client` look up their
 * labels at every observation; these look them up once, and the observer keeps the series. They have the shape of
 * `prom-client`'s metrics, so its registry takes them.
 */
import type { Metric, MetricObject } from 'prom-client'

type Labels = Readonly<Record<string, string>>
interface Value {
  readonly labels: Record<string, string | number>
  readonly value: number
  readonly metricName?: string
}

/** Series of one name by the values of their labels, made when first asked for. */
abstract class Family<S> {
  abstract readonly type: 'counter' | 'histogram'
  readonly #labelNames: readonly string[]
  readonly #byLabel = new Map<string, unknown>()
  protected readonly all: { readonly labels: Labels; readonly series: S }[] = []

  constructor(
    readonly name: string,
    readonly help: string,
    labelNames: readonly string[] = [],
  ) {
    this.#labelNames = labelNames
  }

  /** `values`: one for each label name, in their order. */
  of(...values: readonly string[]): S {
    let level = this.#byLabel
    for (let index = 0; index < values.length - 1; index++) {
      const value = values[index] as string
      let next = level.get(value) as Map<string, unknown> | undefined
      if (next === undefined) {
        next = new Map()
        level.set(value, next)
      }
      level = next
    }
    const last = values.at(-1) ?? ''
    let series = level.get(last) as S | undefined
    if (series === undefined) {
      series = this.make()
      level.set(last, series)
      const labels = Object.fromEntries(this.#labelNames.map((name, index) => [name, values[index] as string]))
      this.all.push({ labels, series })
    }
    return series
  }

  protected abstract make(): S
  protected abstract values(): Value[]

  /** What `prom-client` reads. */
  async get(): Promise<MetricObject> {
    const { name, help, type } = this
    return { name, help, type, aggregator: 'sum', values: this.values() } as unknown as MetricObject
  }

  /** As the registry takes it, which needs a name and `get` and no more. */
  asMetric(): Metric {
    return this as unknown as Metric
  }
}

export interface Count {
  value: number
}

export class Counters extends Family<Count> {
  readonly type = 'counter'

  protected make(): Count {
    return { value: 0 }
  }

  protected values(): Value[] {
    return this.all.map(({ labels, series }) => ({ labels, value: series.value }))
  }
}

/** How many observations lay at or below each bound, and their sum. */
export class Distribution {
  readonly bounds: readonly number[]
  readonly counts: Float64Array
  sum = 0

  constructor(bounds: readonly number[]) {
    this.bounds = bounds
    // The last is of those beyond all bounds.
    this.counts = new Float64Array(bounds.length + 1)
  }

  observe(value: number): void {
    const { bounds, counts } = this
    let index = 0
    while (index < bounds.length && value > (bounds[index] as number)) index++
    counts[index] = (counts[index] as number) + 1
    this.sum += value
  }

  get count(): number {
    return this.counts.reduce((sum, count) => sum + count, 0)
  }
}

export class Histograms extends Family<Distribution> {
  readonly type = 'histogram'
  readonly #bounds: readonly number[]

  constructor(name: string, help: string, bounds: readonly number[], labelNames: readonly string[] = []) {
    super(name, help, labelNames)
    this.#bounds = bounds
  }

  protected make(): Distribution {
    return new Distribution(this.#bounds)
  }

  protected values(): Value[] {
    return this.all.flatMap(({ labels, series }) => {
      let below = 0
      const buckets = [...series.bounds, '+Inf'].map((le, index) => {
        below += series.counts[index] as number
        return { labels: { ...labels, le }, value: below, metricName: `${this.name}_bucket` }
      })
      return [
        ...buckets,
        { labels, value: series.sum, metricName: `${this.name}_sum` },
        { labels, value: below, metricName: `${this.name}_count` },
      ]
    })
  }
}
