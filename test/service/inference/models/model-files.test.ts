import { chmodSync, renameSync, statSync, utimesSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import {
  assertSameContent,
  assertUnchanged,
  changedInPlace,
  readModel,
} from '../../../../service/src/inference/models/model-files.js'
import { ExternalData } from '../../../support/onnx-builder.js'
import { type Files, modelsFolder, writeModels } from '../../../support/onnx-folder.js'
import { identity, table } from '../../../support/onnx-models.js'

/** A model with weights beside it, read. */
async function besides(t: Test) {
  const weights = new ExternalData('weights')
  const graph = table(10, 0, weights)
  const read = await readFrom(t, { 'm/1/model.onnx': graph, 'm/1/weights': weights.bytes(), 'm/model.json': {} })
  return { ...read, weights: join(read.folder, 'weights'), bytes: weights.bytes() }
}

async function readFrom(t: Test, given: Files) {
  const dir = modelsFolder(t, given)
  const folder = join(dir, 'm/1')
  const jsonFile = given['m/model.json'] === undefined ? undefined : join(dir, 'm/model.json')
  return { dir, folder, files: await readModel({ name: 'm', version: '1', folder, jsonFile }) }
}

/** Other bytes of the same length in the same file, with the times that it had. */
function changeUnseen(path: string, bytes: Uint8Array): void {
  const { atime, mtime } = statSync(path)
  writeFileSync(
    path,
    bytes.map(byte => byte ^ 1),
  )
  utimesSync(path, atime, mtime)
}

t.test('a file that is written to is found out, whatever its size and times say', async t => {
  const { files, weights, bytes } = await besides(t)
  await assertSameContent(files)
  t.equal(await changedInPlace(files), undefined)
  changeUnseen(weights, bytes)
  t.equal(await changedInPlace(files), weights)
  await t.rejects(assertUnchanged(files), { message: `${weights} has changed since it was read` })
  await t.rejects(assertSameContent(files), { message: `${weights} has changed since it was read` })
})

t.test('a file that is touched, gets other rights or is replaced is not taken for one that was written to', async t => {
  const { files, weights, bytes, dir } = await besides(t)
  utimesSync(weights, new Date(0), new Date(0))
  t.equal(await changedInPlace(files), undefined)
  chmodSync(weights, 0o600)
  t.equal(await changedInPlace(files), undefined)
  changeUnseen(weights, bytes)
  t.equal(await changedInPlace(files), weights, 'what is written after that is')
  writeModels(dir, { 'm/1/new': bytes })
  renameSync(join(dir, 'm/1/new'), weights)
  t.equal(await changedInPlace(files), undefined)
})

t.test('what no session reads again is not watched: model.json, and the file of a small model', async t => {
  const { files, dir } = await besides(t)
  writeFileSync(join(dir, 'm/model.json'), '{ "description": "changed" }')
  t.equal(await changedInPlace(files), undefined)
  const small = await readFrom(t, { 'm/1/model.onnx': identity() })
  writeFileSync(join(small.folder, 'model.onnx'), 'anything')
  t.equal(await changedInPlace(small.files), undefined)
  await assertUnchanged(small.files)
  await assertSameContent(small.files)
})
