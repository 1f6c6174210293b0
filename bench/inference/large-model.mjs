import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import ts from 'typescript'

/** The builder of the tests, which is TypeScript: compiled here, since Node 20 does not read it. */
async function onnxBuilder() {
  const source = readFileSync(new URL('../../test/support/onnx-builder.ts', import.meta.url), 'utf8')
  const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 }
  const { outputText } = ts.transpileModule(source, { compilerOptions })
  return import(`data:text/javascript,${encodeURIComponent(outputText)}`)
}

/**
 * A folder with one model, `large`: a perceptron of two hidden layers of `width`, with weights of chance, that takes
 * rows of `inputs` numbers. At 4,096 it has 17 million weights, and a row takes some milliseconds.
 *
 * @param {{ inputs: number, width: number }} size
 */
export async function largeModel({ inputs, width }) {
  const { ElementType, floats, model, node } = await onnxBuilder()
  const dir = mkdtempSync(join(tmpdir(), 'bench-models-'))
  const weights = (name, from, to) => floats(name, chance(from * to, Math.sqrt(2 / from)), [from, to])
  const tensor = (name, size) => ({ name, type: ElementType.FLOAT, shape: ['batch', size] })
  const bytes = model({
    nodes: [
      node('MatMul', ['x', 'first'], ['a']),
      node('Relu', ['a'], ['b']),
      node('MatMul', ['b', 'second'], ['c']),
      node('Relu', ['c'], ['d']),
      node('MatMul', ['d', 'third'], ['scores']),
      node('Softmax', ['scores'], ['y'], { axis: { int: 1 } }),
    ],
    inputs: [tensor('x', inputs)],
    outputs: [tensor('y', 10)],
    initializers: [weights('first', inputs, width), weights('second', width, width), weights('third', width, 10)],
  })
  mkdirSync(join(dir, 'large', '1'), { recursive: true })
  writeFileSync(join(dir, 'large', '1', 'model.onnx'), bytes)
  writeFileSync(join(dir, 'large', 'model.json'), JSON.stringify({ labels: [...'0123456789'] }))
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) }
}

/** Of mean zero and about the given deviation; the same at every run. */
function chance(count, deviation) {
  const values = new Float32Array(count)
  let state = 1
  for (let index = 0; index < count; index++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    values[index] = (state / 2 ** 31) * 1.73 * deviation
  }
  return values
}
