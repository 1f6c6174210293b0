import { once } from 'node:events'
import { connect } from 'node:net'

const HEAD_END = Buffer.from('\r\n\r\n')
const LENGTH = Buffer.from('content-length: ')
const RETRY_AFTER = Buffer.from('retry-after: ')

/**
 * A connection that is kept alive, with one request at a time on it. It reads no more of an answer than its status
 * and its length, which is most of why it costs a fraction of a general client.
 */
export class Connection {
  #socket
  #answered = undefined
  #lost = undefined
  #partial = undefined
  #status = 0

  /** `addresses`: where the connections come from, in turn; the loopback's own where left out. */
  static async open(port, count, bytes, addresses) {
    const connections = Array.from(
      { length: count },
      (_, index) => new Connection(port, bytes, addresses?.[index % addresses.length]),
    )
    await Promise.all(connections.map(({ ready }) => ready))
    return connections
  }

  static async close(connections) {
    await Promise.all(connections.map(connection => connection.#close()))
  }

  /** @param {number} port @param {number} [bytes] that are read at once @param {string} [localAddress] */
  constructor(port, bytes = 16_384, localAddress = undefined) {
    const buffer = Buffer.allocUnsafe(bytes)
    this.#socket = connect({
      port,
      host: '127.0.0.1',
      localAddress,
      noDelay: true,
      onread: {
        buffer,
        callback: size => {
          this.#read(buffer.subarray(0, size))
          return true
        },
      },
    })
    this.ready = once(this.#socket, 'connect')
    this.ready.catch(() => {})
    this.#socket.on('error', error => {
      if (this.#lost === undefined) throw error
    })
    this.#socket.on('close', () => {
      if (this.#answered === undefined) return
      if (this.#lost === undefined) throw new Error('the server closed the connection without an answer')
      this.#answered = undefined
      this.#lost()
    })
  }

  /**
   * @param {Buffer} bytes
   * @param {(status: number, retryAfter?: number) => void} answered with the seconds that a refusal names
   * @param {() => void} [lost] in place of an error
   */
  request(bytes, answered, lost) {
    this.#answered = answered
    this.#lost = lost
    this.#socket.write(bytes)
  }

  /** Gives up on whatever was asked. */
  drop() {
    this.#answered = undefined
    this.#lost = () => {}
    this.#socket.destroy()
  }

  #read(chunk) {
    const bytes = this.#partial === undefined ? chunk : Buffer.concat([this.#partial, chunk])
    const head = bytes.indexOf(HEAD_END)
    const length = head < 0 ? -1 : bytes.indexOf(LENGTH)
    const end = length < 0 ? Number.POSITIVE_INFINITY : head + 4 + integerAt(bytes, length + LENGTH.length)
    if (bytes.length < end) {
      this.#partial = Buffer.from(bytes)
      return
    }
    if (bytes.length > end) throw new Error('more than one answer to one request')
    this.#partial = undefined
    this.#status = integerAt(bytes, 9)
    const answered = this.#answered
    this.#answered = undefined
    const refused = this.#status === 429 || this.#status === 503
    answered?.(this.#status, refused ? retryAfterOf(bytes) : undefined)
  }

  /** Servers close what has been idle for long. */
  get isOpen() {
    return !this.#socket.destroyed
  }

  async #close() {
    if (this.#socket.closed) return
    const closed = once(this.#socket, 'close')
    this.#socket.destroy()
    await closed
  }
}

function retryAfterOf(bytes) {
  const at = bytes.indexOf(RETRY_AFTER)
  return at < 0 ? undefined : integerAt(bytes, at + RETRY_AFTER.length)
}

function integerAt(bytes, at) {
  let value = 0
  for (let index = at; bytes[index] >= 48 && bytes[index] <= 57; index++) value = value * 10 + bytes[index] - 48
  return value
}
