import { page, words } from '../picture.mjs'

const WIDTH = 470
const LEFT = 58
const RIGHT = 16
const HEIGHT = 150
const TOPS = { share: 100, latency: 290 }
/** Milliseconds at the bottom and the top of the latencies, whose scale is logarithmic. */
const [LEAST_MS, MOST_MS] = [1, 10_000]

/**
 * Goodput and latency over the load, a column for each model: the service and a server that takes everything.
 *
 * @param {Record<string, Record<string, { loads: object[] }>>} models what a run has measured
 * @param {Record<string, { title: string, deadlineMs: number }>} scenarios
 * @param {Record<string, { title: string }>} contenders
 */
export function overloadPicture(models, scenarios, contenders) {
  const names = Object.keys(models)
  const parts = names.flatMap((name, column) => columnOf(column * WIDTH, scenarios[name], models[name]))
  const legend = Object.entries(contenders).map(
    ([name, { title }], index) =>
      `<circle class="${name}" cx="${16 + index * 130}" cy="40" r="5"/>${words(26 + index * 130, 44, title.replaceAll('`', ''), 'name')}`,
  )
  return page({
    title: 'Under overload: what is answered in time, and how late the slowest are',
    width: WIDTH * names.length,
    height: TOPS.latency + HEIGHT + 50,
    style: `polyline { fill: none; stroke-width: 2.5 } .grid { stroke: #8883 } .deadline { stroke: #d62728; stroke-dasharray: 4 3 }
  circle.protected { fill: #1f77b4 } polyline.protected { stroke: #1f77b4 } circle.unprotected { fill: #d2691e } polyline.unprotected { stroke: #d2691e }
  @media (prefers-color-scheme: dark) { circle.protected { fill: #58a6ff } polyline.protected { stroke: #58a6ff } circle.unprotected { fill: #f0a35e } polyline.unprotected { stroke: #f0a35e } }`,
    parts: [...legend, ...parts],
  })
}

function columnOf(x, { title, deadlineMs }, results) {
  const factors = Object.values(results)[0].loads.map(({ factor }) => factor)
  const at = index => x + LEFT + (index * (WIDTH - LEFT - RIGHT)) / (factors.length - 1)
  const share = value => TOPS.share + HEIGHT * (1 - Math.min(1.1, Math.max(0, value)) / 1.1)
  const decades = Math.log10(MOST_MS / LEAST_MS)
  const latency = ms => {
    const height = Math.log10(Math.min(MOST_MS, Math.max(LEAST_MS, ms)) / LEAST_MS) / decades
    return TOPS.latency + HEIGHT * (1 - height)
  }
  const grid = (y, label) => [
    `<line class="grid" x1="${at(0)}" x2="${at(factors.length - 1)}" y1="${y.toFixed(1)}" y2="${y.toFixed(1)}"/>`,
    words(x + 12, y + 4, label, 'value'),
  ]
  const line = (name, loads, y, field) => {
    const points = loads
      .map((load, index) => ({ value: load[field], x: at(index) }))
      .filter(({ value }) => Number.isFinite(value))
      .map(point => ({ ...point, y: y(point.value).toFixed(1) }))
    return [
      `<polyline class="${name}" points="${points.map(point => `${point.x},${point.y}`).join(' ')}"/>`,
      ...points.map(point => `<circle class="${name}" cx="${point.x}" cy="${point.y}" r="3.5"/>`),
    ]
  }
  const deadline = latency(deadlineMs).toFixed(1)
  return [
    words(x + 12, TOPS.share - 28, title, 'scenario'),
    ...[0, 0.5, 1].flatMap(value => grid(share(value), value.toFixed(1))),
    ...[1, 10, 100, 1000, 10_000].flatMap(ms => grid(latency(ms), ms < 1000 ? `${ms} ms` : `${ms / 1000} s`)),
    words(x + LEFT, TOPS.latency - 12, 'p99 of what was answered with 200 (dashed: the deadline)', 'head'),
    words(x + LEFT, TOPS.share - 8, 'answered in time, in shares of the capacity', 'head'),
    `<line class="deadline" x1="${at(0)}" x2="${at(factors.length - 1)}" y1="${deadline}" y2="${deadline}"/>`,
    ...factors.map((factor, index) => words(at(index) - 10, TOPS.latency + HEIGHT + 20, `${factor}×`, 'value')),
    words(x + LEFT, TOPS.latency + HEIGHT + 40, 'offered, in multiples of the capacity', 'head'),
    ...Object.entries(results).flatMap(([name, { loads }]) => [
      ...line(name, loads, share, 'share'),
      ...line(name, loads, latency, 'p99'),
    ]),
  ]
}
