/** What every answer of the service must be like, whatever was asked. */
import { CANARY } from './requests.js'
import type { Answer, Exchange } from './wire.js'

/** Where this checkout lies, which no stranger may learn. */
const HERE = process.cwd()

/** Traces of the inside: stacks, files, libraries, and the words of Redis and of the parsers. */
const INSIDE =
  /\n\s+at |node_modules|file:\/\/|\/usr\/|\.[cm]?[jt]s:\d|FST_|ERR_|HPE_|ioredis|ReplyError|Unexpected token|JSON at/

const SECURITY = [
  'content-security-policy',
  'cross-origin-resource-policy',
  'referrer-policy',
  'x-content-type-options',
]

/** Longest error, in bytes: none repeats at length what was sent. */
const LONGEST_ERROR = 8192

/** Name of the policy of the fuzzed service. */
export const POLICY = 'fuzz'

/** Whether an answer says that it was charged. What is refused for overload, with 429 here, is given back. */
export const isCharged = ({ status, headers }: Answer): boolean =>
  status !== 429 && (headers['ratelimit-policy']?.includes(`"${POLICY}"`) ?? false)

/** What is wrong with an answer; undefined where nothing is. */
export function wrongWith({ status, headers, body }: Answer): string | undefined {
  if (status >= 500) return 'a fault of the service'
  const missing = SECURITY.find(name => headers[name] === undefined)
  if (missing !== undefined) return `no ${missing}`
  if (Object.values(headers).some(value => value.includes(CANARY))) return 'a secret in a header'
  if (headers['x-injected'] !== undefined) return 'a header of the client'
  const text = body.toString('latin1')
  if (text.includes(CANARY)) return 'a secret in the body'
  if (text.includes(HERE)) return 'a path of this machine'
  if (status < 400) return undefined
  if (body.length > LONGEST_ERROR) return `an error of ${body.length} bytes`
  if (INSIDE.test(text)) return 'something of the inside'
  return body.length === 0 ? undefined : wrongWithError(status, headers['content-type'], text)
}

function wrongWithError(status: number, type: string | undefined, text: string): string | undefined {
  let error: Readonly<Record<string, unknown>>
  try {
    error = JSON.parse(text)
  } catch {
    return 'an error that is no JSON'
  }
  if (type?.startsWith('application/json'))
    return typeof error.error === 'string' ? undefined : 'no error of the protocol'
  if (type !== 'application/problem+json') return `an error of type ${type}`
  const { type: kind, title, detail, instance, code } = error
  const texts = [kind, title, detail, instance, code].every(member => typeof member === 'string' && member !== '')
  return texts && error.status === status ? undefined : 'not a whole problem document'
}

/** What is wrong with all that came over a connection; undefined where nothing is. */
export function wrongWithExchange({ answers, rest, end }: Exchange): string | undefined {
  if (end === 'open') return 'the connection stays open'
  // After a reset, what was on its way is lost.
  if (rest.length > 0 && end === 'closed') return `no answer: ${JSON.stringify(rest.toString('latin1', 0, 300))}`
  for (const answer of answers) {
    const wrong = wrongWith(answer)
    if (wrong !== undefined)
      return `${wrong}: ${answer.status} ${JSON.stringify(answer.headers)} ${answer.body.toString('latin1', 0, 500)}`
  }
  return undefined
}
