/** What was used: over time, by key and by model; and what is denied, as it happens. */
import { admin, byId, showAmounts, signedIn } from './api.js'
import uPlot from './uPlot.esm.js'

const POLL_MS = 2000
const HEIGHT = 150
const HOUR_S = 3600
const SHOWN = 10

const dark = matchMedia('(prefers-color-scheme: dark)')
const color = name => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim()
const refusedOf = ({ refused }) => Object.values(refused).reduce((sum, count) => sum + count, 0)
const total = (rows, of) => rows.reduce((sum, row) => sum + of(row), 0)

let drawing
let data = [[], [], [], []]

function draw() {
  const plot = byId('over-time')
  drawing?.destroy()
  const axis = {
    stroke: color('soft'),
    grid: { stroke: color('line'), width: 1 },
    ticks: { show: false },
    font: '11px system-ui',
  }
  drawing = new uPlot(
    {
      width: plot.clientWidth,
      height: HEIGHT,
      padding: [8, 8, 0, 0],
      legend: { show: false },
      cursor: { show: false },
      scales: { y: { range: (_, _min, max) => [0, Math.max(1, max * 1.15)] } },
      axes: [
        { ...axis, size: 30 },
        { ...axis, size: 52 },
      ],
      series: [
        {},
        ...['allowed', 'second', 'denied'].map(name => ({
          stroke: color(name),
          width: 2,
          points: { show: true, size: 4, fill: color(name) },
        })),
      ],
    },
    data,
    plot,
  )
}

/** One point an hour, or a day where there are many. */
function pointsOf(rows, from, to, step, timeOf) {
  const byTime = new Map(rows.map(row => [timeOf(row), row]))
  const times = []
  for (let time = from; time < to; time += step) times.push(time)
  const values = of => times.map(time => (byTime.has(time) ? of(byTime.get(time)) : 0))
  return [times, values(row => row.requests), values(row => row.rows), values(refusedOf)]
}

function spanOf() {
  const days = Number(byId('span').value)
  const now = Math.floor(Date.now() / 1000)
  const to = now - (now % HOUR_S) + HOUR_S
  const first = to - days * 24 * HOUR_S
  return days === 1
    ? { by: 'hour', step: HOUR_S, from: first, to }
    : { by: 'day', step: 24 * HOUR_S, from: first - (first % 86_400), to }
}

const query = ({ from }, by) => `usage?${new URLSearchParams({ by, from: new Date(from * 1000).toISOString() })}`

async function show() {
  const span = spanOf()
  const [overTime, byKey, byModel] = await Promise.all(
    [span.by, 'key', 'model'].map(by => admin('GET', query(span, by))),
  )
  data = pointsOf(overTime.rows, span.from, span.to, span.step, row => Date.parse(row.hour ?? row.day) / 1000)
  if (drawing === undefined) draw()
  else drawing.setData(data)
  byId('total-requests').textContent = total(overTime.rows, row => row.requests)
  byId('total-rows').textContent = total(overTime.rows, row => row.rows)
  byId('total-refused').textContent = total(overTime.rows, refusedOf)
  const amountsOf = (rows, of) =>
    rows
      .map(row => ({
        of: of(row),
        amount: row.requests,
        told: `${row.requests} requests, ${row.rows} rows, ${row.computeMs.toFixed(0)} ms`,
      }))
      .sort((a, b) => b.amount - a.amount)
      .slice(0, SHOWN)
  showAmounts(
    byId('by-key'),
    amountsOf(byKey.rows, ({ key, owner }) => (owner === null ? key : `${owner} · ${key.slice(0, 8)}`)),
  )
  showAmounts(
    byId('by-model'),
    amountsOf(
      byModel.rows.filter(({ model }) => model !== null),
      ({ model }) => model,
    ),
  )
  byId('usage-state').textContent = `at ${new Date().toLocaleTimeString()}`
}

/** Refusals by their code, at the first look: what came before the page was opened. */
let before

async function showDenials() {
  const now = Math.floor(Date.now() / 1000)
  const from = before?.from ?? now - (now % HOUR_S)
  const { rows } = await admin('GET', query({ from }, 'model'))
  const counts = {}
  for (const { refused } of rows)
    for (const [code, count] of Object.entries(refused)) counts[code] = (counts[code] ?? 0) + count
  before ??= { from, counts }
  const amounts = Object.entries(counts)
    .map(([code, count]) => ({ of: code, amount: count - (before.counts[code] ?? 0) }))
    .filter(({ amount }) => amount > 0)
    .sort((a, b) => b.amount - a.amount)
  showAmounts(byId('denials'), amounts, 'denied')
  byId('denials-state').textContent = 'live'
}

async function poll() {
  if (document.hidden || !signedIn()) return
  try {
    await Promise.all([show(), showDenials()])
  } catch (error) {
    for (const id of ['usage-state', 'denials-state']) byId(id).textContent = error.message
  }
}

export async function startUsage() {
  before = undefined
  await poll()
}

export function listenToUsage() {
  setInterval(poll, POLL_MS)
  byId('span').addEventListener('change', poll)
  dark.addEventListener('change', () => drawing && draw())
  new ResizeObserver(() => drawing?.setSize({ width: byId('over-time').clientWidth, height: HEIGHT })).observe(
    byId('over-time'),
  )
  byId('csv').addEventListener('click', async () => {
    try {
      const text = await admin('GET', `${query(spanOf(), 'key')}&format=csv`)
      const link = document.createElement('a')
      link.href = URL.createObjectURL(new Blob([text], { type: 'text/csv' }))
      link.download = 'usage.csv'
      link.click()
      URL.revokeObjectURL(link.href)
    } catch (error) {
      byId('usage-state').textContent = error.message
    }
  })
}
