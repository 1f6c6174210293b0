/** The Redis of the simulation answers as a real one does. */
import fc from 'fast-check'
import t from 'tap'
import { startRedis } from '../support/redis-fleet.js'
import { planOf } from './plan.js'
import { SimulatedRedis } from './redis.js'
import { run } from './run.js'
import { nameOf } from './world.js'

/** Both run a script with a time of our own, which is its last argument, and let no key expire while they do. */
const WITH_TIME = `
local clock, real, longer = tonumber(table.remove(ARGV)), redis, 315360000000
local function with_time(call)
  return function(name, ...)
    local args = { ... }
    if name == 'TIME' then
      return { string.format('%d', math.floor(clock / 1000000)), string.format('%d', clock % 1000000) }
    elseif name == 'PEXPIREAT' or name == 'PEXPIRE' then
      args[2] = args[2] + longer
    elseif name == 'SET' then
      args[#args] = args[#args - 1] == 'PX' and args[#args] + longer or args[#args]
    elseif name == 'PTTL' then
      return 1
    end
    return call(name, unpack(args))
  end
end
local redis = { call = with_time(real.call), pcall = with_time(real.pcall) }
`

const real = (await startRedis(t)).client()
const simulated = await SimulatedRedis.create()

/** What is stored, in the words of `SimulatedRedis.dump`, without expiries. */
async function dumpOfReal(): Promise<string> {
  const lines: string[] = []
  for (const key of (await real.keys('*')).sort()) {
    const kind = await real.type(key)
    const hex = (value: Buffer) => value.toString('hex')
    let shown: string[] = []
    if (kind === 'string') shown = [hex((await real.getBuffer(key)) as Buffer)]
    else if (kind === 'zset') {
      const all = await real.zrangeBuffer(key, '0', '-1', 'WITHSCORES')
      shown = pairs(all).map(([member, score]) => `${hex(member)}=${score}`)
    } else {
      const all = await real.hgetallBuffer(key)
      shown = Object.entries(all).map(([field, value]) => `${hex(Buffer.from(field))}=${hex(value)}`)
      shown.sort()
    }
    lines.push([key, kind, ...shown].join(' '))
  }
  return lines.join('\n')
}

function pairs(all: readonly Buffer[]): [Buffer, Buffer][] {
  return Array.from({ length: all.length / 2 }, (_, index) => [all[2 * index] as Buffer, all[2 * index + 1] as Buffer])
}

/** Without expiries. */
function dumpOfSimulated(clockUs: number): string {
  return simulated.dump(clockUs).replace(/^(\S+ \S+) \S+/gm, '$1')
}

t.test(
  'a real Redis replies to each script call of a simulation as the simulated one does, and stores the same',
  async t => {
    const names = new Set<string>()
    let count = 0
    for (let seed = 1; seed <= 40; seed++) {
      const calls: { script: { sha: string; source: string }; keys: readonly string[]; args: (string | number)[] }[] =
        []
      await run(planOf(seed), simulated, {
        onCall: ({ script, keys, args }, clockUs) => {
          names.add(nameOf(script))
          const source = WITH_TIME + script.source
          calls.push({ script: { sha: `timed ${script.sha}`, source }, keys, args: [...args, clockUs] })
        },
      })
      simulated.clear()
      await real.flushdb()
      for (const { script, keys, args } of calls.slice(0, 150)) {
        const expected = await real
          .eval(script.source, keys.length, ...keys, ...args)
          .catch((error: Error) => error.message)
        let reply: unknown
        try {
          reply = simulated.run(0, script, keys, args)
        } catch (error) {
          reply = (error as Error).message
        }
        count++
        if (JSON.stringify(reply) !== JSON.stringify(expected)) t.strictSame(reply, expected, `seed ${seed}: ${args}`)
      }
      t.equal(dumpOfSimulated(0), await dumpOfReal(), `what is stored after seed ${seed}`)
    }
    t.ok(count > 1000, `${count} calls`)
    for (const name of ['CHECK', 'REFUND', 'RESET', 'ANNOUNCE', 'RESTORE']) t.ok(names.has(name), name)
  },
)

const key = fc.constantFrom('a', 'b', 'c')
const member = fc.constantFrom('1', '2', '10', 'x', 'yy', '\u00e9')
const score = fc.oneof(
  fc.integer({ min: -3, max: 12 }).map(String),
  fc.constantFrom('1700000000000001', '2.5', '+inf', '-inf'),
)
const bound = fc.oneof(
  score,
  fc.integer({ min: -3, max: 12 }).map(value => `(${value}`),
)
const rank = fc.integer({ min: -4, max: 6 }).map(String)
const command = fc.oneof(
  fc.tuple(fc.constant('ZADD'), key, score, member),
  fc.tuple(fc.constant('ZADD'), key, score, member, score, member),
  fc.tuple(fc.constant('ZADD'), key, fc.constantFrom('NX', 'XX'), score, member),
  fc.tuple(fc.constant('ZREM'), key, member, member),
  fc.tuple(fc.constant('ZCARD'), key),
  fc.tuple(fc.constant('ZCOUNT'), key, bound, bound),
  fc.tuple(fc.constant('ZRANGE'), key, rank, rank),
  fc.tuple(fc.constant('ZRANGE'), key, rank, rank, fc.constant('WITHSCORES')),
  fc.tuple(fc.constant('ZRANGEBYSCORE'), key, bound, bound),
  fc.tuple(fc.constant('ZRANGEBYSCORE'), key, bound, bound, fc.constant('WITHSCORES')),
  fc.tuple(
    fc.constant('ZREVRANGEBYSCORE'),
    key,
    bound,
    bound,
    fc.constant('LIMIT'),
    fc.constant('0'),
    fc.constant('1'),
  ),
  fc.tuple(fc.constant('ZREMRANGEBYRANK'), key, rank, rank),
  fc.tuple(fc.constant('ZREMRANGEBYSCORE'), key, bound, bound),
  fc.tuple(fc.constant('SET'), key, member),
  fc.tuple(fc.constant('SET'), key, member, fc.constant('NX'), fc.constant('PX'), fc.constant('100000')),
  fc.tuple(fc.constant('SET'), key, member, fc.constant('PX'), fc.constantFrom('100000', '0')),
  fc.tuple(fc.constant('GET'), key),
  fc.tuple(fc.constant('EXISTS'), key),
  fc.tuple(fc.constant('UNLINK'), key, key),
  fc.tuple(fc.constant('HSET'), key, member, member, member, member),
  fc.tuple(fc.constant('HGET'), key, member),
  fc.tuple(fc.constant('HMGET'), key, member, member),
  fc.tuple(fc.constant('HDEL'), key, member, member),
  fc.tuple(fc.constant('PEXPIRE'), key, fc.constantFrom('100000', '0', '-5')),
  fc.tuple(fc.constant('PEXPIREAT'), key, fc.constantFrom('99999999999999', '1')),
)

/** Both ways in which a script may call, and whether there is an expiry. */
const ANY = `
local name = table.remove(ARGV, 1)
local reply
if name == 'pcall' then reply = redis.pcall(unpack(ARGV)) else reply = redis.call(unpack(ARGV)) end
if type(reply) == 'table' and reply.err then return { 'error', string.sub(reply.err, 1, 9) } end
return reply
`
const TTL = `
local left = redis.call('PTTL', KEYS[1])
return left > 0 and 1 or left
`

t.test('a real Redis replies to every command that the scripts use as the simulated one does', async () => {
  const any = { sha: 'any', source: ANY }
  const ttl = { sha: 'ttl', source: TTL }
  const reply = (args: readonly string[]) => {
    try {
      return simulated.run(1_700_000_000_000_000, any, [], args)
    } catch (error) {
      return (error as Error).message.slice(0, 9)
    }
  }
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.tuple(fc.constantFrom('call', 'pcall'), command), { maxLength: 25 }),
      async commands => {
        simulated.clear()
        await real.flushdb()
        for (const [way, parts] of commands) {
          const args = [way, ...parts]
          const expected = await real.eval(ANY, 0, ...args).catch((error: Error) => error.message.slice(0, 9))
          const own = reply(args)
          if (JSON.stringify(own) !== JSON.stringify(expected)) {
            throw new Error(`${args.join(' ')}: ${JSON.stringify(own)} is ${JSON.stringify(expected)} in Redis`)
          }
          const name = parts[1]
          const left = await real.eval(TTL, 1, name)
          if (simulated.run(1_700_000_000_000_000, ttl, [name], []) !== left)
            throw new Error(`${args}: expires ${left}`)
        }
      },
    ),
    { numRuns: 150 },
  )
})

t.test('a key of the simulated Redis is there for as long as its expiry says, and no longer', async t => {
  simulated.clear()
  const any = { sha: 'any', source: ANY }
  const at = (ms: number, ...args: string[]) => simulated.run(ms * 1000, any, [], ['call', ...args])
  at(1000, 'SET', 'a', '1', 'PX', '50')
  t.equal(at(1050, 'GET', 'a'), '1')
  t.equal(at(1051, 'GET', 'a'), null)
  at(1000, 'ZADD', 'b', '1', 'x')
  at(1000, 'PEXPIREAT', 'b', '2000')
  t.equal(at(2000, 'ZCARD', 'b'), 1)
  t.equal(at(2001, 'ZCARD', 'b'), 0)
})
