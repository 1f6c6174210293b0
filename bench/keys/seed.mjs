/** Keys that are made at a time. */
const AT_ONCE = 50

/**
 * Makes keys of the plan `plan` over the admin API of a service, and gives their texts.
 *
 * @param {number} port
 * @param {string} token
 * @param {number} count
 */
export async function makeKeys(port, token, count) {
  const make = async index => {
    const answer = await fetch(`http://127.0.0.1:${port}/v1/admin/keys`, {
      method: 'POST',
      headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' },
      body: JSON.stringify({ owner: `owner ${index % 1000}`, plan: 'plan' }),
    })
    if (answer.status !== 201) throw new Error(`no key was made: ${answer.status} ${await answer.text()}`)
    return (await answer.json()).key
  }
  const texts = []
  while (texts.length < count) {
    const some = Array.from({ length: Math.min(AT_ONCE, count - texts.length) }, (_, index) => texts.length + index)
    texts.push(...(await Promise.all(some.map(make))))
  }
  return texts
}
