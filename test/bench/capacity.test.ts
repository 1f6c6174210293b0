import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import t from 'tap'
import { childEnv } from '../support/child-env.js'

const run = promisify(execFile)

interface Plan {
  readonly replicas: number
  readonly shards: number
  readonly checks: number
  readonly bytes: { readonly expected: number; readonly most: number }
  readonly parts: readonly { readonly part: string; readonly use: number }[]
}

async function plan(...options: string[]): Promise<Plan> {
  const args = ['bench/capacity/run.mjs', '--plan', '--json', ...options]
  const { stdout } = await run(process.execPath, args, { env: childEnv() })
  return JSON.parse(stdout).plan
}

t.test('a fleet is planned from the figures of the bench', async t => {
  const need = ['--clients', '100000', '--quota', '100', '--window', '60', '--rate', '20000', '--denied', '0.2']
  const small = await plan(...need)
  const large = await plan(...need, '--rate', '200000', '--clients', '1000000')
  t.ok(small.replicas >= 1 && small.shards >= 1)
  t.ok(large.replicas > 5 * small.replicas && large.shards > small.shards, 'ten times the need takes a larger fleet')
  t.ok(Math.abs(large.bytes.most / small.bytes.most - 10) < 0.01, 'memory goes with the clients')
  t.ok(large.bytes.expected <= large.bytes.most)
  for (const { parts } of [small, large]) {
    t.ok(
      parts.every(({ part, use }) => use <= 0.5 || part.startsWith('shard of')),
      'no part is fuller than asked for, but the one log that cannot be divided',
    )
    t.strictSame(
      [...parts].sort((one, two) => two.use - one.use),
      parts,
      'what breaks first comes first',
    )
  }
})

t.test('one client that asks for everything breaks its shard first, unless denials are remembered', async t => {
  const need = ['--clients', '1', '--denied-clients', '1', '--hottest', '1', '--rate', '200000', '--denied', '0.99']
  const without = await plan(...need, '--no-deny-memory')
  t.match(without.parts[0], { part: 'shard of the busiest client' })
  t.ok((without.parts[0]?.use ?? 0) > 1, 'more than one core can do')
  const with_ = await plan(...need)
  t.ok(with_.checks < without.checks / 10)
})

t.test('a need that is none is refused by name', async t => {
  await t.rejects(plan('--denied', '2'), { code: 2, stderr: /--denied is '2'; allowed: a number, 0 to 1/ })
  await t.rejects(plan('--model', 'x'), { code: 2, stderr: /--model is 'x'; allowed: none, digits/ })
})

t.test(
  'in the simulation a quota is used up whatever the replicas, and denials that are remembered spare Redis',
  async t => {
    const path = new URL('../../bench/capacity/simulate.mjs', import.meta.url).href
    const { simulate } = await import(path)
    const given = { keys: 1, rate: 2000, max: 100, windowMs: 1000, runMs: 5000, settleMs: 1000 }
    for (const replicas of [1, 10, 100]) {
      const [on, off] = [true, false].map(denyMemory => simulate({ ...given, replicas, denyMemory }))
      for (const { admitted, denied, requests } of [on, off]) {
        t.ok(admitted <= 600 && admitted >= 400, `${admitted} were admitted`)
        t.equal(admitted + denied, requests)
      }
      t.equal(off.checks, off.requests)
      t.ok(on.checks < off.checks / 2, `${replicas} replicas ask ${on.checks} times, not ${off.checks}`)
    }
  },
)
