/** Folders of models for tests, and engines over them that close themselves with the test. */
import { mkdirSync, mkdtempSync, rmSync, utimesSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import type { Test } from 'tap'
import { type ModelsOptions, openModels } from '../../service/src/inference/index.js'
import { encodeRows } from '../../service/src/inference/tensors/rows.js'
import type { Model, RunOptions } from '../../service/src/inference/types.js'
import { type Prediction, predictionsOf } from './values.js'

/** What a test puts into the folder of models, by path: `iris/1/model.onnx`, `iris/model.json`. */
export type Files = Readonly<Record<string, Uint8Array | string | object>>

/** Written as if long ago, so that nobody waits for them to settle. */
export function writeModels(dir: string, files: Files): void {
  for (const [path, content] of Object.entries(files)) {
    const full = join(dir, path)
    mkdirSync(dirname(full), { recursive: true })
    const data = typeof content === 'string' || content instanceof Uint8Array ? content : JSON.stringify(content)
    writeFileSync(full, data)
    const before = new Date(Date.now() - 60_000 - Math.floor(process.hrtime()[1] / 1000))
    utimesSync(full, before, before)
  }
}

export function modelsFolder(t: Test, files: Files): string {
  const dir = mkdtempSync(join(tmpdir(), 'models-'))
  t.teardown(() => rmSync(dir, { recursive: true, force: true }))
  writeModels(dir, files)
  return dir
}

/** What the engine logged, by message. */
export interface Logged {
  readonly level: 'info' | 'warn' | 'error'
  readonly message: string
  readonly details: Readonly<Record<string, unknown>>
}

/** An engine with one worker over these files; it is closed at the end of the test. */
export async function openFolder(t: Test, files: Files, options: Partial<ModelsOptions> = {}) {
  const dir = options.dir ?? modelsFolder(t, files)
  const logged: Logged[] = []
  const write = (level: Logged['level']) => (details: object, message: string) =>
    void logged.push({ level, message, details: details as Logged['details'] })
  const log = { info: write('info'), warn: write('warn'), error: write('error') }
  const models = await openModels({ workers: 1, log, ...options, dir })
  t.teardown(() => models.close())
  return { models, dir, logged }
}

/** What a route does with a body: rows in, predictions out. */
export async function predict(model: Model, features: unknown, options: Partial<RunOptions> = {}) {
  const { inputs, rows } = encodeRows(model.info, { features })
  const { outputs, json } = await model.run(inputs, { json: true, ...options, rows })
  if (json === undefined) return predictionsOf(model.info, outputs, options.rows ?? rows)
  const { predictions } = JSON.parse(Buffer.from(json).toString('utf8'))
  return predictions as readonly Prediction[]
}

/** Resolves when the condition holds. */
export async function until(condition: () => boolean, what: string): Promise<void> {
  const end = Date.now() + 60_000
  while (!condition()) {
    if (Date.now() > end) throw new Error(`never: ${what}`)
    await new Promise(resolve => setTimeout(resolve, 5))
  }
}
