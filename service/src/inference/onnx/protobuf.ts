/**
 * Protobuf messages field by field, each with its place in the file, so that a file can be edited and all else in it
 * stays byte for byte as it was (protobuf.dev/programming-guides/encoding). Pure.
 */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire'

/** One field of a message. `value` holds a varint; `start` to `end` are the bytes of any other. */
export interface Field {
  readonly number: number
  readonly wire: WireType
  readonly value: bigint
  readonly start: number
  readonly end: number
  /** Where the field itself begins, its tag included. */
  readonly from: number
}

/** Fields of the message in `bytes[start, end)`. Throws Error where the bytes are not a whole message. */
export function* fields(bytes: Uint8Array, start = 0, end = bytes.length): Generator<Field> {
  const reader = new BinaryReader(bytes.subarray(start, end))
  while (reader.pos < reader.len) {
    const from = start + reader.pos
    const [number, wire] = reader.tag()
    const first = start + reader.pos
    if (wire === WireType.Varint) {
      const value = BigInt(reader.uint64())
      yield { number, wire, value, start: first, end: start + reader.pos, from }
      continue
    }
    const { length } = wire === WireType.LengthDelimited ? reader.bytes() : reader.skip(wire, number)
    const next = start + reader.pos
    yield { number, wire, value: 0n, start: next - length, end: next, from }
  }
}

const utf8 = new TextDecoder()

export const textOf = (bytes: Uint8Array, field: Field): string => utf8.decode(bytes.subarray(field.start, field.end))

/** Values of a repeated integer field, packed or not, with their sign. */
export function* integers(bytes: Uint8Array, field: Field): Generator<bigint> {
  const reader = new BinaryReader(bytes.subarray(field.start, field.end))
  while (reader.pos < reader.len) yield BigInt(reader.int64())
}

export const intField = (number: number, value: number | bigint): Uint8Array =>
  new BinaryWriter().tag(number, WireType.Varint).int64(value).finish()

export const bytesField = (number: number, value: Uint8Array): Uint8Array => messageField(number, [value])

/** A message that consists of these bytes. */
export function messageField(number: number, parts: readonly Uint8Array[]): Uint8Array {
  const length = parts.reduce((sum, part) => sum + part.length, 0)
  const head = new BinaryWriter().tag(number, WireType.LengthDelimited).uint32(length).finish()
  return concatBytes([head, ...parts])
}

export const textField = (number: number, value: string): Uint8Array => bytesField(number, Buffer.from(value))

/** The parts one after the other. */
export const concatBytes = (parts: readonly Uint8Array[]): Uint8Array => Buffer.concat(parts)
