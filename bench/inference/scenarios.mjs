import { readFileSync } from 'node:fs'

const modelFolder = new URL('../../models/', import.meta.url)

/** Each row of the held-out data in a request of its own. */
function predictions(model) {
  const { inputs } = JSON.parse(readFileSync(new URL(`${model}/1/golden.json`, modelFolder), 'utf8'))
  return Object.values(inputs)[0].map(features => post({ model, features }))
}

/**
 * A request as it goes over the wire; `address`: whose it is, where a proxy that the service trusts says so.
 *
 * @param {object} body
 * @param {string} [address]
 */
export function post(body, address) {
  const text = JSON.stringify(body)
  const head = [
    'POST /v1/predict HTTP/1.1',
    'host: 127.0.0.1',
    ...(address === undefined ? [] : [`x-forwarded-for: ${address}`]),
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
    title: '`digits-wide`, a perceptron 3,072 wide with 38 MB of weights, single rows',
    model: 'digits-wide',
    messages: () => predictions('digits-wide'),
  },
}
