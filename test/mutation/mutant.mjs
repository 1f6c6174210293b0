// Runs compiled test files in a worker, with one mutant of a source. Tells why the first test failed, or that all passed.
import { parentPort, workerData } from 'node:worker_threads'

const { files, mutant } = workerData
// Where the sources look for the mutant that is meant.
globalThis.__stryker__ = { activeMutant: mutant }
globalThis.mutation = { failed: killedBy => parentPort.postMessage({ killedBy }) }
for (const event of ['uncaughtException', 'unhandledRejection'])
  process.on(event, error => globalThis.mutation.failed(`${event}: ${error?.message}`))

await import('./generated.mjs')
for (const file of files) {
  await import(file)
  await globalThis.mutation.ended()
}
parentPort.postMessage({})
