/** The keys: their standing, and what may be done to them. */
import { admin, byId, part } from './api.js'
import { watchPolicies } from './policies.js'

const PAGE = 50
let next = null

const date = text => (text === null ? '' : text.slice(0, 10))

function say(text) {
  byId('keys-problem').textContent = text
}

async function tried(work) {
  say('')
  try {
    await work()
  } catch (error) {
    say(error.message)
  }
}

/** Asks before something that cannot be taken back. */
function confirmed(title, text, yes) {
  const dialog = byId('confirm')
  byId('confirm-title').textContent = title
  byId('confirm-text').textContent = text
  byId('confirm-yes').textContent = yes
  dialog.returnValue = 'no'
  dialog.showModal()
  return new Promise(resolve => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true })
  })
}

function showIssued(title, key) {
  byId('issued-title').textContent = `${title} This is the only time that it is shown:`
  byId('issued-key').textContent = key
  byId('issued').hidden = false
  byId('issued-key').focus()
}

function lineOf(key) {
  const line = part('li', '')
  line.dataset.id = key.id
  const about = part('div', '')
  const who = part('p', 'who', key.name === null ? key.owner : `${key.owner} · ${key.name}`)
  const what = part('p', 'hint what')
  what.append(part('span', `standing ${key.standing}`, key.standing))
  const more = [
    `plan ${key.plan}`,
    key.shown,
    `made ${date(key.createdAt)}`,
    ...(key.expiresAt === null ? [] : [`expires ${date(key.expiresAt)}`]),
    ...(key.models === null ? [] : [`for ${key.models.join(', ')}`]),
    ...(key.outgoing.length === 0
      ? []
      : [`old key valid until ${key.outgoing.map(each => each.expiresAt.slice(0, 16)).join(', ')}`]),
  ]
  what.append(`, ${more.join(', ')}`)
  about.append(who, what)
  const acts = part('div', 'row')
  const act = (label, run, kind = '') => {
    const button = part('button', kind, label)
    button.type = 'button'
    button.dataset.act = label.toLowerCase()
    button.setAttribute('aria-label', `${label}: key of ${key.owner}, ${key.shown}`)
    button.addEventListener('click', () => tried(run))
    acts.append(button)
  }
  const replaced = changed => {
    const again = lineOf(changed)
    line.replaceWith(again)
    return again
  }
  act('Policies', async () => watchPolicies(key))
  act('Rotate', async () => {
    const text = 'The new key is shown once. The old one works for another hour.'
    if (!(await confirmed(`Rotate the key of ${key.owner}?`, text, 'Rotate'))) return
    const issued = await admin('POST', `keys/${key.id}/rotate`, { overlapSeconds: 3600 })
    replaced(issued)
    showIssued(`The new key of ${key.owner}.`, issued.key)
  })
  act(key.disabled ? 'Enable' : 'Disable', async () => {
    const changed = await admin('PATCH', `keys/${key.id}`, { disabled: !key.disabled })
    replaced(changed)
      .querySelector(`[data-act=${changed.disabled ? 'enable' : 'disable'}]`)
      .focus()
  })
  act(
    'Revoke',
    async () => {
      const text = 'From now on it gets 401. You cannot undo this.'
      if (!(await confirmed(`Revoke the key of ${key.owner}?`, text, 'Revoke'))) return
      await admin('DELETE', `keys/${key.id}`)
      // The focus goes to the next key, so that the keyboard stays where it was.
      const neighbour = line.nextElementSibling ?? line.previousElementSibling
      line.remove()
      ;(neighbour?.querySelector('[data-act=revoke]') ?? byId('filter-owner')).focus()
      byId('keys-state').textContent = `the key of ${key.owner} is revoked`
    },
    'danger',
  )
  line.append(about, acts)
  return line
}

async function show(cursor) {
  const owner = byId('filter-owner').value.trim()
  const query = new URLSearchParams({ limit: PAGE, ...(owner && { owner }), ...(cursor && { cursor }) })
  const page = await admin('GET', `keys?${query}`)
  next = page.next
  const lines = page.keys.map(lineOf)
  if (cursor === undefined) byId('keys').replaceChildren(...lines)
  else byId('keys').append(...lines)
  byId('more').hidden = next === null
  const count = byId('keys').childElementCount
  byId('keys-state').textContent = `${count}${next === null ? '' : ' and more'} ${count === 1 ? 'key' : 'keys'}`
}

export async function startKeys(plans) {
  byId('plan').replaceChildren(...plans.map(({ name }) => new Option(name)))
  await tried(() => show())
}

export function listenToKeys() {
  byId('create').addEventListener('submit', event => {
    event.preventDefault()
    void tried(async () => {
      const [name, ends] = [byId('name').value.trim(), byId('expires').value]
      const issued = await admin('POST', 'keys', {
        owner: byId('owner').value.trim(),
        plan: byId('plan').value,
        ...(name && { name }),
        ...(ends && { expiresAt: ends }),
      })
      byId('create').reset()
      await show()
      showIssued(`The key of ${issued.owner}.`, issued.key)
    })
  })
  byId('filter').addEventListener('submit', event => {
    event.preventDefault()
    void tried(() => show())
  })
  byId('more').addEventListener('click', () => tried(() => show(next)))
  byId('copy').addEventListener('click', () =>
    tried(async () => {
      // Browsers have a clipboard only for pages over HTTPS and of this machine.
      if (navigator.clipboard === undefined) {
        getSelection().selectAllChildren(byId('issued-key'))
        throw new Error('this browser lets no page copy over plain HTTP: press Ctrl+C, the key is selected')
      }
      await navigator.clipboard.writeText(byId('issued-key').textContent)
      byId('copy').textContent = 'Copied'
      setTimeout(() => (byId('copy').textContent = 'Copy'), 2000)
    }),
  )
  byId('issued-close').addEventListener('click', () => {
    hideIssued()
    byId('owner').focus()
  })
}

export function hideIssued() {
  byId('issued').hidden = true
  byId('issued-key').textContent = ''
}
