/** Where one key stands with each policy of its plan, again and again. */
import { admin, byId, part, signedIn } from './api.js'

const POLL_MS = 1000
let watched
const lines = new Map()

function lineOf(name) {
  let line = lines.get(name)
  if (line !== undefined) return line
  const box = part('div', '')
  box.dataset.policy = name
  const head = part('div', 'policy-line')
  const left = part('div', 'policy-left')
  const meter = part('div', 'meter')
  line = {
    more: part('span', 'hint'),
    left: part('span', 'left'),
    of: part('small', 'of'),
    meter,
    fill: part('div', 'fill'),
  }
  head.append(part('span', 'name', name), line.more)
  left.append(line.left, ' ', line.of)
  meter.setAttribute('role', 'meter')
  meter.setAttribute('aria-label', `Left of ${name}`)
  meter.setAttribute('aria-valuemin', 0)
  meter.append(line.fill)
  box.append(head, left, meter)
  byId('policies').append(box)
  lines.set(name, line)
  return line
}

/** Seconds as people say them. */
function told(seconds) {
  for (const [unit, size] of [
    ['day', 86_400],
    ['hour', 3600],
    ['minute', 60],
  ]) {
    if (seconds >= 2 * size || seconds === size) {
      const count = Math.ceil(seconds / size)
      return count === 1 ? `1 ${unit}` : `${count} ${unit}s`
    }
  }
  return `${seconds} s`
}

function show({ name, unit, limit, remaining, windowSeconds, resetSeconds, period }) {
  const line = lineOf(name)
  line.left.textContent = remaining
  const span =
    period === undefined ? (windowSeconds === 0 ? 'at once' : `in any ${told(windowSeconds)}`) : `a ${period}`
  line.of.textContent = `of ${limit} ${unit} left ${span}`
  line.more.textContent = remaining === limit ? 'unused' : `more in ${told(resetSeconds)}`
  line.meter.setAttribute('aria-valuemax', limit)
  line.meter.setAttribute('aria-valuenow', Math.max(0, remaining))
  line.meter.classList.toggle('low', remaining < limit / 5)
  line.fill.style.width = `${limit === 0 ? 0 : Math.max(0, remaining / limit) * 100}%`
}

async function poll() {
  const key = watched
  if (key === undefined || document.hidden || !signedIn()) return
  try {
    const { policies } = await admin('GET', `keys/${key.id}/limits`)
    if (watched === key) policies.forEach(show)
  } catch (error) {
    if (watched === key) byId('policies-of').textContent = `${key.owner}: ${error.message}`
  }
}

export function watchPolicies(key) {
  watched = key
  lines.clear()
  byId('policies').replaceChildren()
  if (key === undefined) return
  byId('policies-of').textContent = `${key.owner}, plan ${key.plan}, ${key.shown}`
  void poll()
}

export const startPolicies = () => setInterval(poll, POLL_MS)
