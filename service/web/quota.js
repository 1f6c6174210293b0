/** The caller's quota, policy by policy; the countdown after a 429; and the burst. */
import { onAnswer, predict, readLimits, sampleOf } from './api.js'

const AT_ONCE = 16
const POLL_MS = 1000
/** Code of a 429 that is about the load of the service, and not about the caller's quota. */
const OVERLOADED = 'INFERENCE_OVERLOADED'

const policies = document.querySelector('#policies')
const denied = document.querySelector('#denied')
const countdown = document.querySelector('#countdown')
const lines = new Map()
let againAt = 0

function lineOf(policy) {
  let line = lines.get(policy.name)
  if (line !== undefined) return line
  const box = document.createElement('div')
  box.dataset.policy = policy.name
  box.innerHTML =
    '<div class="policy-line"><span class="name"></span><span class="hint more"></span></div>' +
    '<div class="policy-left"><span class="left"></span> <small class="of"></small></div>' +
    '<div class="meter" role="meter" aria-valuemin="0"><div class="fill"></div></div>'
  const part = name => box.querySelector(`.${name}`)
  line = {
    name: part('name'),
    more: part('more'),
    left: part('left'),
    of: part('of'),
    meter: part('meter'),
    fill: part('fill'),
  }
  lines.set(policy.name, line)
  policies.append(box)
  return line
}

const seconds = value => (value === 1 ? '1 second' : `${value} seconds`)

function show(policy) {
  const line = lineOf(policy)
  const { name, limit, remaining, resetSeconds, windowSeconds, period } = policy
  line.policy = policy
  line.name.textContent = name
  line.left.textContent = remaining
  line.of.textContent =
    period === undefined ? `of ${limit} left in any ${seconds(windowSeconds)}` : `of ${limit} left this ${period}`
  line.more.textContent = remaining === limit ? 'unused' : `more in ${resetSeconds} s`
  line.meter.setAttribute('aria-label', `Left of ${name}`)
  line.meter.setAttribute('aria-valuemax', limit)
  line.meter.setAttribute('aria-valuenow', remaining)
  line.meter.classList.toggle('low', remaining < limit / 5)
  line.fill.style.width = `${limit === 0 ? 0 : (remaining / limit) * 100}%`
}

async function poll() {
  if (document.hidden) return
  try {
    for (const policy of await readLimits()) show(policy)
  } catch {
    for (const line of lines.values()) line.more.textContent = 'no answer'
  }
}

function count() {
  const left = Math.ceil((againAt - Date.now()) / 1000)
  denied.hidden = left <= 0
  if (left > 0) {
    countdown.textContent = `${left} s`
    setTimeout(count, 200)
  }
}

function onQuota({ status, retryAfter, quota, json }) {
  for (const [name, now] of quota) {
    const known = lines.get(name)?.policy
    if (known !== undefined) show({ ...known, ...now })
  }
  if (status !== 429 || json.code === OVERLOADED) return
  const counting = againAt > Date.now()
  againAt = Date.now() + retryAfter * 1000
  const violated = json['violated-policies'] ?? []
  document.querySelector('#denied-policies').textContent = violated.length > 0 ? `Policy: ${violated.join(', ')}.` : ''
  if (!counting) count()
}

function kindOf({ status, json }) {
  if (status === 200) return 'allowed'
  if (status === 503 || json.code === OVERLOADED) return 'shed'
  return status === 429 ? 'denied' : 'failed'
}

async function fire(size, body) {
  const shots = document.querySelector('#shots')
  const counts = { allowed: 0, denied: 0, shed: 0, failed: 0 }
  const marks = Array.from({ length: size }, () => document.createElement('i'))
  shots.replaceChildren(...marks)
  const waiting = marks.values()
  const from = performance.now()
  const shoot = async () => {
    // One iterator for all, so that each mark is shot at once.
    for (const mark of waiting) {
      const kind = kindOf(await predict(body))
      mark.className = kind
      counts[kind]++
    }
  }
  await Promise.all(Array.from({ length: Math.min(AT_ONCE, size) }, shoot))
  const told = Object.entries(counts).filter(([kind, number]) => number > 0 || kind === 'allowed' || kind === 'denied')
  return `${told.map(([kind, number]) => `${number} ${kind}`).join(', ')} in ${((performance.now() - from) / 1000).toFixed(2)} s`
}

/** `body`: what each request of a burst sends. */
export function startQuota(model) {
  onAnswer(onQuota)
  void poll()
  setInterval(poll, POLL_MS)
  const form = document.querySelector('#burst')
  const button = document.querySelector('#fire')
  const result = document.querySelector('#burst-result')
  form.addEventListener('submit', async event => {
    event.preventDefault()
    if (button.getAttribute('aria-disabled') === 'true') return
    // Not `disabled`, which would take the focus away.
    button.setAttribute('aria-disabled', 'true')
    const count = Number(document.querySelector('#burst-size').value)
    result.textContent = await sampleOf(model).then(
      body => fire(count, body),
      ({ message }) => message,
    )
    button.removeAttribute('aria-disabled')
    void poll()
  })
}
