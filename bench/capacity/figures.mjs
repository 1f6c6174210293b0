import { readFileSync } from 'node:fs'

/**
 * What the bench has measured, as far as the capacity of a fleet follows from it. Read from the page that
 * `bench/page.mjs` writes, so that there is one place where figures are.
 *
 * `serverUs`, `redisUs`: processor time of a request, in microseconds. `models`: predictions a second of one replica of
 * the service whose limits are in Redis. `bytes`: what Redis holds for one full key, by the quota. `fewer`: as `allowed`,
 * when fewer checks come `together` in a call; the page does not tell of that, `--check` measures it.
 *
 * @typedef {{ serverUs: number, redisUs: number, together?: number }} Cost
 * @typedef {{ allowed: Cost, denied: Cost, policies: Cost, fewer?: Cost, bytes: Record<string, number>, models: Record<string, number> }} Figures
 */

/** How many policies the scenario `policies` of the bench has. */
export const POLICIES_OF_BENCH = 3
/** Whose cost of a request counts: a fleet is planned as if nothing were prefetched. The first that the page has. */
const COSTS = ['ml-api-rate-limiter, `prefetch: false`', 'ml-api-rate-limiter, IETF headers too (default)']
/** Whose bytes count; they are the same for all of ours. */
const BYTES = 'ml-api-rate-limiter'

/** @returns {Figures} */
export function readFigures(page = readFileSync(new URL('../README.md', import.meta.url), 'utf8')) {
  const sections = page.split(/^### /m)
  const tableOf = sign => {
    const section = sections.find(each => each.split('\n', 1)[0].includes(sign))
    if (section === undefined) throw new Error(`the page of the bench has no results of ${sign}`)
    return rowsOf(section)
  }
  const costOf = scenario => {
    const rows = tableOf(`(\`${scenario}\`)`)
    const [row] = COSTS.map(name => rows.find(each => each.limiter === name)).filter(found => found !== undefined)
    return { serverUs: numberOf(row?.['server µs']), redisUs: numberOf(row?.['Redis µs']) }
  }
  const { limiter: _, ...bytes } = tableOf('bytes in Redis').find(each => each.limiter === BYTES) ?? {}
  const predictionsOf = model => {
    const row = tableOf(`\`${model}\``).find(each => each[''] === 'the service, limits in Redis')
    return numberOf(row?.['predictions/s'])
  }
  return {
    allowed: costOf('allowed'),
    denied: costOf('denied'),
    policies: costOf('policies'),
    bytes: Object.fromEntries(Object.entries(bytes).map(([quota, text]) => [quota, numberOf(text)])),
    models: Object.fromEntries(['digits', 'digits-wide'].map(model => [model, predictionsOf(model)])),
  }
}

/** Rows of the first Markdown table of a section, by the names of their columns. */
function rowsOf(section) {
  const lines = section.split('\n').filter(line => line.startsWith('|'))
  const cells = lines.map(line =>
    line
      .split('|')
      .slice(1, -1)
      .map(cell => cell.trim()),
  )
  const [names, _rule, ...rows] = cells
  return rows.map(row => Object.fromEntries(names.map((name, column) => [name, row[column]])))
}

function numberOf(text) {
  const value = Number(text?.replaceAll(',', ''))
  if (text === undefined || text === '' || !Number.isFinite(value))
    throw new Error(`'${text}' is no figure of the bench`)
  return value
}
