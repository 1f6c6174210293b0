import { execFile } from 'node:child_process'
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { promisify } from 'node:util'
import t, { type Test } from 'tap'
import { childEnv } from '../support/child-env.js'

const run = promisify(execFile)
const root = fileURLToPath(new URL('../..', import.meta.url))

const env = () => {
  const { REDIS_SERVER_BIN } = process.env
  return childEnv(REDIS_SERVER_BIN === undefined ? {} : { REDIS_SERVER_BIN })
}
const bench = (...args: string[]) => run(process.execPath, ['bench/run.mjs', ...args], { cwd: root, env: env() })

interface Row {
  readonly addedUs: number
  readonly serverUs: number
  readonly redisUs: number
}
interface Results {
  readonly limiter: {
    readonly scenarios: Record<string, { rows: Record<string, Row>; entries: Record<string, number> }>
    readonly direct: Record<string, { rows: Record<string, Record<string, number>> }>
  }
}

/** What a short run measured. Whether it holds is not asked: other programs may disturb it. */
async function measured(t: Test, ...args: string[]): Promise<Results & { readonly printed: string }> {
  const folder = mkdtempSync(join(tmpdir(), 'bench-'))
  t.teardown(() => rmSync(folder, { recursive: true }))
  const file = join(folder, 'results.json')
  const short = ['--rounds', '1', '--ms', '50', '--calm', '1', '--json', file]
  const { stdout } = await bench(...args, ...short).catch(error => {
    if (!existsSync(file)) throw error
    return error
  })
  return { ...JSON.parse(readFileSync(file, 'utf8')), printed: stdout }
}

t.test('a run compares builds by the processor time added to a request, and counts the entries of logs', async t => {
  const contenders = ['bare', 'ours-redis', 'ours-before', 'ours-memory', 'ours-before-memory']
  const args = ['--only', 'permits', '--against', root, '--contenders', contenders.join()]
  const { limiter, printed } = await measured(t, ...args)
  const { rows, entries } = limiter.scenarios.permits ?? { rows: {}, entries: {} }
  t.strictSame(Object.keys(rows).sort(), [...contenders].sort())
  const { bare, 'ours-redis': own } = rows as Record<string, Row>
  t.ok(Math.abs((own?.addedUs ?? 0) - ((own?.serverUs ?? 0) + (own?.redisUs ?? 0) - (bare?.serverUs ?? 0))) < 0.001)
  for (const name of ['ours-redis', 'ours-before']) t.ok((entries[name] ?? 0) > 50, `${name}: ${entries[name]} entries`)
  t.match(printed, /### this build over the other one/)
})

t.test('checks without HTTP are measured beside a plain INCR', async t => {
  const args = ['--only', 'lone,decision', '--contenders', 'ours-redis,ours-memory,fastify-redis']
  const { limiter, printed } = await measured(t, ...args)
  const { lone, decision } = limiter.direct
  for (const name of ['ours-redis', 'incr-redis']) t.ok((lone?.rows[name]?.p50 ?? 0) > 0, name)
  t.ok((decision?.rows['ours-memory']?.bytes ?? 0) > 0)
  t.match(printed, /### where we lose/)
})

t.test('a network in front of Redis takes its delay each way', async t => {
  const args = ['--only', 'delayed', '--contenders', 'bare,ours-redis']
  const { printed } = await measured(t, ...args)
  const [, ms] = /Round trip to Redis, by PING: ([\d.]+) ms/.exec(printed) ?? []
  t.ok(Number(ms) >= 2, `${ms} ms`)
})

t.test('what cannot be measured is refused by name', async t => {
  await t.rejects(bench('--against', join(root, 'docs')), { code: 2, stderr: /docs' is neither a checkout/ })
  await t.rejects(bench('--redis', join(root, 'no-server')), { code: 2, stderr: /no-server' cannot be started/ })
  await t.rejects(bench('--only', 'warm'), { code: 2, stderr: /'warm' is none of allowed/ })
})
