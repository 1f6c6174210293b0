import { byId, forget, signIn } from './api.js'
import { hideIssued, listenToKeys, startKeys } from './keys.js'
import { startPolicies, watchPolicies } from './policies.js'
import { listenToUsage, startUsage } from './usage.js'

const CARDS = ['keys-card', 'usage-card', 'denials-card', 'policies-card']

function show(signedIn) {
  byId('sign-in').hidden = signedIn
  byId('sign-out').hidden = !signedIn
  for (const id of CARDS) byId(id).hidden = !signedIn
}

byId('token-form').addEventListener('submit', async event => {
  event.preventDefault()
  byId('sign-in-state').textContent = ''
  try {
    const { plans } = await signIn(byId('token').value)
    byId('token').value = ''
    show(true)
    await Promise.all([startKeys(plans), startUsage()])
    byId('owner').focus()
  } catch (error) {
    byId('sign-in-state').textContent = error.status === 401 ? 'this is not the admin token' : error.message
    byId('token').select()
  }
})
byId('sign-out').addEventListener('click', () => {
  forget()
  hideIssued()
  watchPolicies(undefined)
  byId('keys').replaceChildren()
  show(false)
  byId('token').focus()
})
listenToKeys()
listenToUsage()
startPolicies()
