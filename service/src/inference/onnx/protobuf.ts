/** Reading and writing protobuf messages field by field (protobuf.dev/programming-guides/encoding). Pure. */

/** One field of a message. `value` holds varints and fixed numbers; `start` to `end` the bytes of the others. */
export interface Field {
  readonly number: number
  readonly wire: number
  readonly value: bigint
  readonly start: number
  readonly end: number
  /** Where the field itself begins, its tag included. */
  readonly from: number
}

/** Fields of the message in `bytes[start, end)`. Throws RangeError where the bytes are not a whole message. */
export function* fields(bytes: Uint8Array, start = 0, end = bytes.length): Generator<Field> {
  let at = start
  const varint = (): bigint => {
    let value = 0n
    for (let shift = 0n; shift < 70n; shift += 7n) {
      if (at >= end) throw new RangeError('a field is cut off')
      const byte = bytes[at++] as number
      value |= BigInt(byte & 127) << shift
      if (byte < 128) return BigInt.asUintN(64, value)
    }
    throw new RangeError('a number has too many bytes')
  }
  while (at < end) {
    const from = at
    const tag = Number(varint())
    const number = Math.floor(tag / 8)
    const wire = tag % 8
    if (number === 0) throw new RangeError('a field has the number 0')
    let value = 0n
    if (wire === 0) value = varint()
    const begin = wire === 0 ? from : at
    if (wire === 2) {
      const length = Number(varint())
      const first = at
      at += length
      if (at > end) throw new RangeError('a field is cut off')
      yield { number, wire, value, start: first, end: at, from }
      continue
    }
    if (wire === 1 || wire === 5) {
      at += wire === 1 ? 8 : 4
      if (at > end) throw new RangeError('a field is cut off')
    } else if (wire !== 0) throw new RangeError(`a field has the unknown wire type ${wire}`)
    yield { number, wire, value, start: begin, end: at, from }
  }
}

const utf8 = new TextDecoder()
const encoder = new TextEncoder()

export const textOf = (bytes: Uint8Array, field: Field): string => utf8.decode(bytes.subarray(field.start, field.end))

/** Signed 64-bit value of a varint. */
export const signed = (value: bigint): bigint => BigInt.asIntN(64, value)

/** Values of a repeated integer field, packed or not. */
export function* integers(bytes: Uint8Array, field: Field): Generator<bigint> {
  if (field.wire === 0) {
    yield signed(field.value)
    return
  }
  // Packed: bare varints, which read like a message's fields would without tags.
  let at = field.start
  while (at < field.end) {
    let value = 0n
    let shift = 0n
    let byte: number
    do {
      if (at >= field.end) throw new RangeError('a packed number is cut off')
      byte = bytes[at++] as number
      value |= BigInt(byte & 127) << shift
      shift += 7n
    } while (byte >= 128)
    yield signed(value)
  }
}

export function varint(value: number | bigint): Uint8Array {
  let rest = BigInt.asUintN(64, BigInt(value))
  const out: number[] = []
  for (; rest > 127n; rest >>= 7n) out.push(Number(rest & 127n) | 128)
  out.push(Number(rest))
  return Uint8Array.from(out)
}

export const intField = (number: number, value: number | bigint): Uint8Array =>
  concatBytes([varint(number * 8), varint(value)])

export const bytesField = (number: number, value: Uint8Array): Uint8Array =>
  concatBytes([varint(number * 8 + 2), varint(value.length), value])

export const textField = (number: number, value: string): Uint8Array => bytesField(number, encoder.encode(value))

export function concatBytes(parts: readonly Uint8Array[]): Uint8Array {
  const out = new Uint8Array(parts.reduce((sum, part) => sum + part.length, 0))
  let at = 0
  for (const part of parts) {
    out.set(part, at)
    at += part.length
  }
  return out
}
