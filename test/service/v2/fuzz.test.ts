/** Bodies gone wrong in any way are answered, soon, with 200 or with a 400 that says why. */
import fc from 'fast-check'
import t from 'tap'
import { binaryMessage, echo, type FakeModel, fakeModels, infer, spec, v2App } from './v2-app.js'

const model: FakeModel = {
  name: 'm',
  inputs: [
    spec('a', 'INT64', ['batch', 2]),
    spec('b', 'BYTES', ['batch']),
    spec('c', 'FP32', ['batch', 'n', 2]),
    spec('d', 'FP64', [], true),
  ],
  outputs: [spec('a', 'INT64', ['batch', 2]), spec('b', 'BYTES', ['batch']), spec('c', 'FP32', ['batch', 'n', 2])],
  run: ({ a, b, c }) => ({ a, b, c }) as never,
}

const tensors = [
  { name: 'a', shape: [2, 2], datatype: 'INT64', data: [1, 2, 3, 9007199254740991] },
  { name: 'b', shape: [2], datatype: 'BYTES', data: ['x', 'é'] },
  { name: 'c', shape: [2, 1, 2], datatype: 'FP32', data: [[[1, 2]], [[3, 4]]] },
  { name: 'd', shape: [1, 1], datatype: 'FP64', data: [0.5] },
]

const valid = {
  id: 'one',
  parameters: { timeout: 1_000_000, binary_data_output: false },
  inputs: tensors,
  outputs: [{ name: 'a', parameters: { binary_data: false } }, { name: 'c' }],
}

const app = await v2App(t, fakeModels([model, echo('FP32', ['n'])]))

/** Milliseconds of a processor that this process has taken since. */
function usedMs(start: NodeJS.CpuUsage): number {
  const { user, system } = process.cpuUsage(start)
  return (user + system) / 1000
}

/** Answered as it must be, whatever was sent; false shows the body. */
async function holds(body: Buffer | string, headers: Readonly<Record<string, string>> = {}): Promise<boolean> {
  const start = process.cpuUsage()
  const answer = await infer(app, 'm', body, { 'content-type': 'application/json', ...headers })
  const soon = usedMs(start) < 5000
  if (answer.status === 200) return soon
  return soon && answer.status === 400 && typeof answer.body.error === 'string' && answer.text.length < 2000
}

type Path = readonly (string | number)[]

/** Every place in the message. */
function pathsOf(value: unknown, path: Path = []): Path[] {
  if (typeof value !== 'object' || value === null) return [path]
  return [path, ...Object.entries(value).flatMap(([key, inner]) => pathsOf(inner, [...path, key]))]
}

/** The message with one place changed; undefined takes it away. */
function changed(value: unknown, [key, ...rest]: Path, to: unknown): unknown {
  if (key === undefined) return to
  const copy = structuredClone(value) as Record<string | number, unknown>
  copy[key] = changed(copy[key], rest, to)
  return copy
}

const paths = pathsOf(valid)

const hostile = fc.oneof(
  fc.jsonValue({ maxDepth: 3 }),
  fc.constantFrom(undefined, null, -1, 0, 1e308, 2 ** 53, 2 ** 64, -0, '', '__proto__', 'a', [], {}, [[]], [[], []]),
)

t.test('the message that is changed here is a good one', async t => {
  t.equal((await infer(app, 'm', valid)).status, 200)
})

t.test('any value in any place', async t => {
  await t.resolves(
    fc.assert(
      fc.asyncProperty(
        fc.array(fc.tuple(fc.constantFrom(...paths), hostile), { minLength: 1, maxLength: 3 }),
        async changes => {
          const message = changes.reduce((before: unknown, [path, to]) => {
            try {
              return changed(before, path, to)
            } catch {
              // The place went with an earlier change.
              return before
            }
          }, valid)
          return holds(JSON.stringify(message) ?? 'undefined')
        },
      ),
      { numRuns: 3000 },
    ),
  )
})

t.test('any text in any place', async t => {
  const text = JSON.stringify(valid)
  const pieces = [
    '"',
    '\\',
    '[',
    ']',
    '{',
    '}',
    ',',
    ':',
    '-',
    '1e999',
    '12345678901234567890',
    '\\u0000',
    '\ufeff',
    'null',
  ]
  await t.resolves(
    fc.assert(
      fc.asyncProperty(
        fc.nat(text.length),
        fc.nat(20),
        fc.oneof(fc.constantFrom(...pieces), fc.string({ unit: 'binary' })),
        (at, gone, piece) => holds(text.slice(0, at) + piece + text.slice(at + gone)),
      ),
      { numRuns: 3000 },
    ),
  )
})

t.test('any bytes, cut anywhere, under any header length', async t => {
  const [a, b, c, d] = tensors
  const size = (of: object | undefined, bytes: number) => ({
    ...of,
    data: undefined,
    parameters: { binary_data_size: bytes },
  })
  const [body, headers] = binaryMessage(
    { ...valid, inputs: [size(a, 32), size(b, 11), c, size(d, 8)] },
    Buffer.alloc(32, 7),
    Buffer.from([1, 0, 0, 0, 120, 2, 0, 0, 0, 0xc3, 0xa9]),
    Buffer.alloc(8, 1),
  )
  t.equal((await infer(app, 'm', body, headers)).status, 200)
  const length = Number(headers['inference-header-content-length'])
  await t.resolves(
    fc.assert(
      fc.asyncProperty(
        fc.nat(body.length),
        fc.uint8Array({ maxLength: 12 }),
        fc.nat(12),
        fc.oneof({ weight: 4, arbitrary: fc.constant(length) }, { weight: 1, arbitrary: fc.nat(body.length + 5) }),
        (at, bytes, gone, headerLength) =>
          holds(Buffer.concat([body.subarray(0, at), bytes, body.subarray(at + gone)]), {
            ...headers,
            'inference-header-content-length': String(headerLength),
          }),
      ),
      { numRuns: 3000 },
    ),
  )
})

t.test('bodies made to be slow are not', async t => {
  const long = 500_000
  const slow: Readonly<Record<string, string>> = {
    'lists in lists': `{"inputs":${'['.repeat(long)}`,
    'objects in objects': '{"a":'.repeat(long / 5),
    'a long number': `{"inputs":[{"name":"a","shape":[1,2],"datatype":"INT64","data":[${'9'.repeat(long)},1]}]}`,
    'a long fraction': `{"inputs":[{"name":"a","shape":[1,2],"datatype":"INT64","data":[9007199254740993,1.${'9'.repeat(long)}]}]}`,
    'many long numbers': `{"inputs":[{"name":"a","shape":[${long / 40},2],"datatype":"INT64","data":[${Array.from({ length: long / 20 }, () => '9007199254740993')}]}]}`,
    'escapes beside a long number': `{"id":"${'\\n'.repeat(long / 2)}","inputs":[{"name":"a","shape":[1,2],"datatype":"INT64","data":[9007199254740993,1]}]}`,
    'many inputs': `{"inputs":[${Array.from({ length: long / 3 }, () => '{}')}]}`,
    'many outputs': `{"inputs":[],"outputs":[${Array.from({ length: long / 15 }, () => '{"name":"a"}')}]}`,
    'many dimensions': `{"inputs":[{"name":"d","shape":[${Array.from({ length: long / 2 }, () => 1)}],"datatype":"FP64","data":[1]}]}`,
    'many parameters': `{"parameters":{${Array.from({ length: long / 10 }, (_, i) => `"p${i}":1`)}},"inputs":[]}`,
    'a long name': `{"inputs":[{"name":"${'a'.repeat(long)}"}]}`,
    'white space': `${' '.repeat(long)}{}`,
  }
  for (const [name, body] of Object.entries(slow)) {
    const start = process.cpuUsage()
    const answer = await infer(app, 'm', body)
    const ms = usedMs(start)
    t.equal(answer.status, 400, name)
    t.ok(answer.text.length < 1000, `${name}: the error is short`)
    // The bound is loose, since machines differ; quadratic work would take minutes.
    t.ok(ms < 5000, `${name}: ${ms.toFixed(1)} ms`)
  }
})
