/** What the console asks of the service. The token is in this variable, and nowhere else. */
let token = ''

export const signedIn = () => token !== ''
export const forget = () => {
  token = ''
}

/** Rejects with an Error whose message says what was wrong, and whose `status` is that of the answer, 0 for none. */
export async function admin(method, path, body) {
  let response
  try {
    response = await fetch(`/v1/admin/${path}`, {
      method,
      headers: {
        authorization: `Bearer ${token}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    })
  } catch {
    throw Object.assign(new Error('the service does not answer'), { status: 0 })
  }
  if (response.status === 204) return undefined
  const type = response.headers.get('content-type') ?? ''
  const answer = type.includes('json') ? await response.json() : await response.text()
  if (!response.ok) throw Object.assign(new Error(answer.detail ?? 'the request failed'), { status: response.status })
  return answer
}

/** Tries a token, and keeps it for this page if it is right. */
export async function signIn(given) {
  token = given
  try {
    return await admin('GET', 'plans')
  } catch (error) {
    token = ''
    throw error
  }
}

export const byId = id => document.querySelector(`#${id}`)

/** An element with this class and text. */
export function part(tag, className, text = '') {
  const element = document.createElement(tag)
  element.className = className
  element.textContent = text
  return element
}

/** A list of amounts, each with a bar as long as its share of the largest. */
export function showAmounts(list, amounts, kind = '') {
  const most = Math.max(1, ...amounts.map(({ amount }) => amount))
  list.replaceChildren(
    ...amounts.map(({ of, amount, told = String(amount) }) => {
      const line = part('li', kind)
      const track = part('div', 'track')
      const fill = part('div', 'fill')
      fill.style.width = `${(amount / most) * 100}%`
      track.append(fill)
      line.append(part('span', 'of', of), part('b', 'amount', told), track)
      return line
    }),
  )
  if (amounts.length === 0) list.append(part('li', 'hint', 'none'))
}
