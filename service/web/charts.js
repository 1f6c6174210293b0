/** The last minute of the service, in four charts. */
import uPlot from './uPlot.esm.js'

const POINTS = 120
const HEIGHT = 150

const rate = name => sample => sample[name] / (sample.intervalMs / 1000)
const CHARTS = [
  {
    title: 'Requests per second',
    series: [
      { name: 'allowed', color: 'allowed', of: rate('allowed') },
      { name: 'denied', color: 'denied', of: rate('denied') },
      { name: 'shed', color: 'shed', of: rate('shed') },
    ],
  },
  {
    title: 'Response time, ms',
    series: [
      { name: 'median', color: 'allowed', of: sample => sample.p50Ms },
      { name: '95th percentile', color: 'second', of: sample => sample.p95Ms },
    ],
  },
  {
    title: 'Queue',
    series: [
      { name: 'rows waiting', color: 'allowed', of: sample => sample.queueRows },
      { name: 'longest wait, ms', color: 'second', of: sample => sample.queueMs ?? 0 },
    ],
  },
  { title: 'Rows per batch', series: [{ name: 'mean', color: 'second', of: sample => sample.batchRows }] },
]

const times = []
const dark = matchMedia('(prefers-color-scheme: dark)')
const color = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
const short = value =>
  value === null
    ? '–'
    : value >= 100
      ? value.toFixed(0)
      : value >= 1 || value === 0
        ? +value.toFixed(1)
        : value.toFixed(2)

function optionsOf({ series }, width) {
  const axis = {
    stroke: color('soft'),
    grid: { stroke: color('line'), width: 1 },
    ticks: { show: false },
    font: '11px system-ui',
  }
  return {
    width,
    height: HEIGHT,
    padding: [8, 8, 0, 0],
    legend: { show: false },
    cursor: { show: false },
    scales: {
      x: { time: false, range: (_, min, max) => [Math.min(min, max - 60), max] },
      y: { range: (_, _min, max) => [0, Math.max(1, max * 1.15)] },
    },
    axes: [
      {
        ...axis,
        size: 22,
        splits: plot => [45, 30, 15].map(ago => plot.scales.x.max - ago),
        values: (plot, ticks) => ticks.map(tick => `${Math.round(tick - plot.scales.x.max)} s`),
      },
      { ...axis, size: 44 },
    ],
    series: [
      {},
      ...series.map(each => ({
        stroke: color(each.color),
        width: 2,
        spanGaps: true,
        points: { show: true, size: 4, fill: color(each.color) },
      })),
    ],
  }
}

function build(chart, into) {
  const figure = document.createElement('figure')
  const caption = document.createElement('figcaption')
  const legend = document.createElement('ul')
  const plot = document.createElement('div')
  caption.textContent = chart.title
  legend.className = 'legend'
  plot.className = 'plot'
  // The legend says in words what the picture shows.
  plot.setAttribute('aria-hidden', 'true')
  const values = chart.series.map(({ name, color: kind }) => {
    const item = document.createElement('li')
    const value = document.createElement('b')
    item.className = kind
    value.textContent = '–'
    value.dataset.series = name
    item.append(`${name} `, value)
    legend.append(item)
    return value
  })
  caption.append(legend)
  figure.append(caption, plot)
  into.append(figure)
  return { ...chart, plot, values, data: chart.series.map(() => []), drawing: undefined }
}

function draw(view) {
  view.drawing?.destroy()
  view.drawing = new uPlot(optionsOf(view, view.plot.clientWidth), [times, ...view.data], view.plot)
}

function add(views, sample) {
  times.push(performance.now() / 1000)
  const full = times.length > POINTS
  if (full) times.shift()
  for (const view of views) {
    for (const [index, { of }] of view.series.entries()) {
      const value = of(sample)
      view.data[index].push(value)
      if (full) view.data[index].shift()
      view.values[index].textContent = short(value)
    }
    view.drawing.setData([times, ...view.data])
  }
}

export function startCharts() {
  const state = document.querySelector('#live-state')
  const views = CHARTS.map(chart => build(chart, document.querySelector('#charts')))
  const drawAll = () => views.forEach(draw)
  drawAll()
  dark.addEventListener('change', drawAll)
  new ResizeObserver(() => {
    for (const { drawing, plot } of views) drawing.setSize({ width: plot.clientWidth, height: HEIGHT })
  }).observe(document.querySelector('#charts'))
  const events = new EventSource('/v1/events')
  events.onopen = () => (state.textContent = 'live, last minute')
  events.onerror = () => {
    state.textContent = 'connection lost, reconnecting'
    // The service has no such figures: `EVENTS=off`.
    if (events.readyState === EventSource.CLOSED) document.querySelector('.live').hidden = true
  }
  events.onmessage = ({ data }) => add(views, JSON.parse(data))
}
