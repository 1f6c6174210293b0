import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import ts from 'typescript'

/** The builder of the tests, which is TypeScript: compiled here, since Node 20 does not read it. */
export async function onnxBuilder() {
  const source = readFileSync(new URL('../test/support/onnx-builder.ts', import.meta.url), 'utf8')
  const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 }
  const { outputText } = ts.transpileModule(source, { compilerOptions })
  return import(`data:text/javascript,${encodeURIComponent(outputText)}`)
}

/** A folder with one classifier of digits. */
export function modelFolder(name, bytes) {
  const dir = mkdtempSync(join(tmpdir(), 'bench-models-'))
  mkdirSync(join(dir, name, '1'), { recursive: true })
  writeFileSync(join(dir, name, '1', 'model.onnx'), bytes)
  writeFileSync(join(dir, name, 'model.json'), JSON.stringify({ labels: [...'0123456789'] }))
  return { dir, remove: () => rmSync(dir, { recursive: true, force: true }) }
}

/** Weights of mean zero and about the given deviation; the same at every run. */
export function chance(count, deviation) {
  const values = new Float32Array(count)
  let state = 1
  for (let index = 0; index < count; index++) {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) | 0
    values[index] = (state / 2 ** 31) * 1.73 * deviation
  }
  return values
}
