/**
 * Reload of one of twenty models of 65 MB under load: how long it takes and what memory it needs beside what it takes to
 * load one at the start, and what callers of all models notice. Ends with 1 where it needs more than it should.
 *
 *   npm run bench:reload [-- --models 20 --rounds 5]
 */
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { parseArgs } from 'node:util'
import { startChild } from './child.mjs'
import { onnxBuilder } from './onnx.mjs'
import { median } from './summary.mjs'

const ROWS = 4_250_000
/** Requests a second, over all models. */
const RATE = 300
const CONNECTIONS = 16
const QUIET_MS = 10_000
const TOKEN = 'bench-reload'
/**
 * What a reload of one may take, in times of loading one at the start, where several are loaded side by side and nothing
 * else goes on; of memory, in times of its file, which the trial and the new session each have for a while.
 */
const MOST = { time: 3, memory: 5, p99: 2 }

const { values } = parseArgs({
  options: { models: { type: 'string', default: '20' }, rounds: { type: 'string', default: '5' } },
})
const count = Number(values.models)

const dir = mkdtempSync(join(tmpdir(), 'bench-reload-'))
const problems = []
try {
  await run()
} finally {
  rmSync(dir, { recursive: true, force: true })
}
if (problems.length > 0) {
  console.error(['The run does not hold:', ...problems].join('\n  '))
  process.exitCode = 1
}

async function run() {
  const builder = await onnxBuilder()
  const bytes = Buffer.from(tableOf(builder, 0))
  const fileMiB = bytes.length / 1024 / 1024
  for (let i = 0; i < count; i++) put(`m${i}`, bytes)
  process.env.BENCH_SETTINGS = JSON.stringify({
    ADMIN_TOKEN: TOKEN,
    INFERENCE_THREADS: '1',
    ADMISSION_DELAY_MS: '1000',
  })
  const from = performance.now()
  const server = await startChild(new URL('inference/service.mjs', import.meta.url), [dir, '', '0'])
  const load = await startChild(new URL('load.mjs', import.meta.url), [])
  try {
    const startMs = performance.now() - from
    const { port } = server.ready
    const messages = Array.from({ length: count }, (_, i) => post({ model: `m${i}`, features: [[i]] }))
    const task = { kind: 'openLoop', port, messages, connections: CONNECTIONS, rate: RATE, warmUpMs: 0 }
    await load.ask({ ...task, ms: 2000, seed: 1 })
    console.log(`${count} models of ${fileMiB.toFixed(0)} MiB: loaded in ${ms(startMs)}, ${ms(startMs / count)} each`)
    const reloads = []
    for (let round = 1; round <= Number(values.rounds); round++) {
      const quiet = await load.ask({ ...task, ms: QUIET_MS, seed: round })
      const changed = `m${round % count}`
      put(changed, Buffer.from(tableOf(builder, round)))
      const memory = watchMemory(server.pid)
      const loaded = load.ask({ ...task, ms: QUIET_MS, seed: round + 100 })
      const { took, report } = await reload(port)
      const during = await loaded
      const { before, most, after } = memory.end()
      check(round, { report, changed, quiet, during })
      reloads.push({ took, grown: most - before, kept: after - before, p99: during.p99 / quiet.p99 })
      console.log(
        `reload of one: ${ms(took)}, ${mib(most - before)} more at most and ${mib(after - before)} afterwards; p99 ${quiet.p99.toFixed(1)} → ${during.p99.toFixed(1)} ms, ${during.received} requests`,
      )
    }
    judge(reloads, startMs / count, fileMiB)
  } finally {
    await load.ask({ kind: 'hangUp' })
    await load.stop()
    await server.stop()
  }
}

function check(round, { report, changed, quiet, during }) {
  if (report.loaded.join() !== `${changed}/1` || report.unchanged.length !== count - 1) {
    problems.push(`reload ${round} loaded ${report.loaded.join()}, and ${changed}/1 had changed`)
  }
  for (const { statuses, received } of [quiet, during]) {
    if (statuses[200] !== received) problems.push(`reload ${round}: answered ${JSON.stringify(statuses)}`)
  }
}

function judge(reloads, oneMs, fileMiB) {
  const of = field => median(reloads.map(reload => reload[field]))
  const found = { time: of('took') / oneMs, memory: of('grown') / fileMiB, p99: of('p99') }
  console.log(
    `medians: ${found.time.toFixed(2)} × loading one at the start, memory ${found.memory.toFixed(2)} × the file, p99 ${found.p99.toFixed(2)} × without a reload`,
  )
  for (const [name, most] of Object.entries(MOST)) {
    if (!(found[name] <= most))
      problems.push(`${name} is ${found[name].toFixed(2)} times, and ${most} at most was to be`)
  }
}

/** y = table[x], as a file of about 65 MB; `add` makes another one of it. */
function tableOf({ ElementType, floats, model, node }, add) {
  const values = new Float32Array(ROWS * 4)
  for (let i = 0; i < values.length; i++) values[i] = i + add
  return model({
    nodes: [node('Gather', ['table', 'x'], ['y'])],
    inputs: [{ name: 'x', type: ElementType.INT64, shape: ['batch', 1] }],
    outputs: [{ name: 'y', type: ElementType.FLOAT, shape: ['batch', 1, 4] }],
    initializers: [floats('table', values, [ROWS, 4])],
  })
}

/** By rename, as docs/models.md asks for. */
function put(name, bytes) {
  const folder = join(dir, name, '1')
  if (!existsSync(folder)) mkdirSync(folder, { recursive: true })
  writeFileSync(join(folder, 'new'), bytes)
  renameSync(join(folder, 'new'), join(folder, 'model.onnx'))
}

function post(body) {
  const text = JSON.stringify(body)
  const head = ['POST /v1/predict HTTP/1.1', 'host: 127.0.0.1', 'content-type: application/json']
  return `${head.join('\r\n')}\r\ncontent-length: ${text.length}\r\n\r\n${text}`
}

async function reload(port) {
  const from = performance.now()
  const response = await fetch(`http://127.0.0.1:${port}/v1/admin/reload`, {
    method: 'POST',
    headers: { authorization: `Bearer ${TOKEN}` },
  })
  return { report: await response.json(), took: performance.now() - from }
}

/** Memory of a process and its children, in MiB: Linux alone tells it. */
function watchMemory(pid) {
  const before = memoryOf(pid)
  let most = before
  let isOver = false
  void (async () => {
    while (!isOver) {
      most = Math.max(most, memoryOf(pid))
      await delay(50)
    }
  })()
  return {
    end() {
      isOver = true
      return { before, most, after: memoryOf(pid) }
    },
  }
}

function memoryOf(pid) {
  if (!existsSync('/proc/self/statm')) return Number.NaN
  let sum = 0
  for (const each of readdirSync('/proc').filter(name => /^\d+$/.test(name))) {
    try {
      const parent = readFileSync(`/proc/${each}/stat`, 'utf8')
        .replace(/^.*\) /, '')
        .split(' ')[1]
      if (Number(each) !== pid && Number(parent) !== pid) continue
      sum += (Number(readFileSync(`/proc/${each}/statm`, 'utf8').split(' ')[1]) * 4096) / 1024 / 1024
    } catch {
      // It has ended meanwhile.
    }
  }
  return sum
}

function ms(value) {
  return `${Math.round(value).toLocaleString('en')} ms`
}

function mib(value) {
  return `${value.toFixed(0)} MiB`
}
