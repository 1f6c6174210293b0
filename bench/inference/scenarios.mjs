import { readFileSync } from 'node:fs'

const modelFolder = new URL('../../models/', import.meta.url)

/**
 * Each row of the held-out data in a request of its own, by as many callers as there are addresses: a proxy that the
 * service trusts tells them, so that a quota can be used up for one of them and none of the others.
 */
function predictions(model) {
  const { inputs } = JSON.parse(readFileSync(new URL(`${model}/1/golden.json`, modelFolder), 'utf8'))
  const rows = Object.values(inputs)[0]
  return Array.from({ length: 1024 }, (_, index) =>
    post({ model, features: rows[index % rows.length] }, `10.1.${index >> 8}.${index & 255}`),
  )
}

/** @param {object} body @param {string} address */
export function post(body, address) {
  const text = JSON.stringify(body)
  const head = [
    'POST /v1/predict HTTP/1.1',
    'host: 127.0.0.1',
    `x-forwarded-for: ${address}`,
    'content-type: application/json',
    `content-length: ${Buffer.byteLength(text)}`,
  ]
  return `${head.join('\r\n')}\r\n\r\n${text}`
}

/** `model`: what is asked for. `messages`: its requests. */
export const scenarios = {
  digits: {
    title: '`digits`, a convolutional network of 165 kB, single rows',
    model: 'digits',
    messages: () => predictions('digits'),
  },
  'digits-wide': {
    title: '`digits-wide`, a perceptron 1,024 wide of 4.5 MB, single rows',
    model: 'digits-wide',
    messages: () => predictions('digits-wide'),
  },
}
