const STORES = [
  { store: 'redis', title: 'counting in Redis' },
  { store: 'memory', title: 'counting in the process' },
]
const COLUMN = 470
const LABEL = 230
const BAR = 14
const ROW = 19
const FULL = COLUMN - LABEL - 70

/**
 * Requests per second in relation to bare Fastify, one block a scenario, Redis on the left and in-process on the right.
 *
 * @param {object} limiter what a run has measured of the limiter
 * @param {Record<string, { title: string, store: string }>} contenders
 * @param {Record<string, { title: string, rate?: number }>} scenarios
 */
export function ratioPicture(limiter, contenders, scenarios) {
  const shown = Object.keys(limiter.scenarios).filter(name => scenarios[name].rate === undefined)
  const parts = STORES.map(({ title }, column) => words(column * COLUMN + 10, 46, title, 'head'))
  let y = 64
  for (const scenarioName of shown) {
    const { rows } = limiter.scenarios[scenarioName]
    parts.push(words(10, y + 14, scenarios[scenarioName].title, 'scenario'))
    y += 24
    const blocks = STORES.map(({ store }, column) => {
      const names = Object.keys(rows).filter(name => contenders[name].store === store)
      return {
        names,
        bars: names.map((name, row) => bar(column * COLUMN, y + row * ROW, contenders[name], rows[name], name)),
      }
    })
    parts.push(...blocks.flatMap(({ bars }) => bars))
    y += Math.max(...blocks.map(({ names }) => names.length)) * ROW + 14
  }
  const marks = [0.5, 1].flatMap(ratio =>
    STORES.map((_, column) => {
      const x = column * COLUMN + LABEL + ratio * FULL
      return `<line class="mark" x1="${x}" x2="${x}" y1="56" y2="${y - 8}"/>`
    }),
  )
  return page({
    title: 'Requests per second in relation to bare Fastify',
    caption: 'Requests per second in relation to bare Fastify (longer is better; dashed: half, all)',
    width: COLUMN * 2,
    height: y,
    style: `.peer { fill: #9aa5b1 } .ours { fill: #1f77b4 } .mark { stroke: #8886; stroke-dasharray: 3 3 }
  @media (prefers-color-scheme: dark) { .peer { fill: #6b7683 } .ours { fill: #58a6ff } }`,
    parts: [...marks, ...parts],
  })
}

/** A picture for light and dark pages. `caption` stands at its top, and is the title where it is left out. */
export function page({ title, caption = title, width, height, style, parts }) {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" role="img">
<title>${title}</title>
<style>
  text { font: 12px system-ui, sans-serif; fill: #222 }
  .title { font-size: 15px; font-weight: 600 } .head { font-weight: 600 } .scenario { fill: #555; font-style: italic }
  .value { font-size: 11px } .page { fill: #fff }
  @media (prefers-color-scheme: dark) { text { fill: #ddd } .scenario { fill: #aaa } .page { fill: #0d1117 } }
  ${style}
</style>
<rect class="page" width="100%" height="100%"/>
${[words(10, 22, caption, 'title'), ...parts].join('\n')}
</svg>
`
}

function bar(x, y, { title }, { ratios }, name) {
  const ratio = ratios.bare ?? 0
  const width = Math.max(1, ratio * FULL)
  const label = title.replace('ml-api-rate-limiter', 'ours').replace('rate-limiter-flexible', 'flexible')
  return [
    words(x + 10, y + 11, label, 'name'),
    `<rect class="${name.startsWith('ours-') ? 'ours' : 'peer'}" x="${x + LABEL}" y="${y}" width="${width.toFixed(1)}" height="${BAR}" rx="2"/>`,
    words(x + LABEL + width + 5, y + 11, ratio.toFixed(2), 'value'),
  ].join('')
}

/** One line of text. */
export function words(x, y, text, kind) {
  const escaped = text.replace(/[&<>]/g, character => `&#${character.charCodeAt(0)};`)
  return `<text class="${kind}" x="${x.toFixed(1)}" y="${y}">${escaped}</text>`
}
