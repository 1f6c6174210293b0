/** Names of requests, which errors carry and the log has too. */
import { randomBytes } from 'node:crypto'

const HEX = Array.from({ length: 4096 }, (_, number) => number.toString(16).padStart(3, '0'))
const BLOCK = 1 << 24

/**
 * UUIDs of version 8 (RFC 9562, section 5.8), each given once. The first 98 of their free bits are drawn at random for
 * every 16 million of them, the last 24 count these: `randomUUID`, which draws and writes all bits for each request, takes
 * four times as long.
 */
export class RequestIds {
  #block = ''
  #count = BLOCK
  #mask = 0

  next(): string {
    if (this.#count === BLOCK) this.#begin()
    // Not the bare count, which nobody else needs to know.
    const place = this.#count++ ^ this.#mask
    return this.#block + (HEX[place >>> 12] as string) + (HEX[place & 4095] as string)
  }

  #begin(): void {
    const bits = randomBytes(16)
    bits[6] = 0x80 | ((bits[6] as number) & 0x0f)
    bits[8] = 0x80 | ((bits[8] as number) & 0x3f)
    const hex = bits.toString('hex')
    const groups = [hex.slice(0, 8), hex.slice(8, 12), hex.slice(12, 16), hex.slice(16, 20), hex.slice(20, 26)]
    this.#block = groups.join('-')
    this.#count = 0
    this.#mask = bits.readUIntLE(13, 3)
  }
}
