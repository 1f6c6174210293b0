/**
 * Errors that are planted in the sources, each as one change, to show that the simulation finds them. `from` stands once in
 * its file: where the file changes, the error moves with it.
 */
import type { Plant } from './simulate.mjs'

export const PLANTED: Readonly<Record<string, Plant>> = {
  'a refund of an admission that has left its window': {
    file: 'redis/log.lua',
    from: ' or time <= max(log.now, log.last) - window',
    to: '',
  },
  'a refund after a reset': { file: 'redis/log.lua', from: 'generation ~= log.generation or ', to: '' },
  'one unit more than the limit': {
    file: 'redis/check.lua',
    from: 'if used + cost > limit then waits',
    to: 'if used + cost > limit + 1 then waits',
  },
  'one unit less than the limit': {
    file: 'redis/check.lua',
    from: 'if used + cost > limit then waits',
    to: 'if used + cost >= limit then waits',
  },
  'a grant with room for one more': {
    file: 'redis/check.lua',
    from: 'room = max(room, 0)',
    to: 'room = max(room + 1, 0)',
  },
  'a grant that looks at its last policy alone': {
    file: 'redis/check.lua',
    from: 'or min(room, floor((policy.limit - log.total + log.base) / costs[i]))',
    to: 'or floor((policy.limit - log.total + log.base) / costs[i])',
  },
  'time that moves to the newest entry': {
    file: 'redis/log.lua',
    from: '  log.now = now\n  local edge',
    to: '  log.now = max(now, last)\n  now = log.now\n  local edge',
  },
  'a step back of the clock that is not noticed': {
    file: 'redis/log.lua',
    from: 'if last > now + ahead + STEP then',
    to: 'if false then',
  },
  'times of admissions that do not rise': {
    file: 'redis/log.lua',
    from: 'if last and last >= score then score = last + 1 end',
    to: '',
  },
  'a refund that is sent twice and gives back twice': {
    file: 'redis/refund.lua',
    from: "if not call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[2]) then return { clock, 'resent' } end",
    to: '',
  },
  'a grant of which one unit too much is spent': {
    file: 'redis/prefetch.ts',
    from: 'if (grant.left === 0) this.#drop(holding, grant)',
    to: 'if (grant.left < 0) this.#drop(holding, grant)',
  },
  'a grant of which one unit too much goes back': {
    file: 'redis/prefetch.ts',
    from: 'cost: policy.cost * left,',
    to: 'cost: policy.cost * (left + 1),',
  },
  'requests that wait for a grant and are forgotten': {
    file: 'redis/prefetch.ts',
    from: 'this.#parts.again(rest, back)',
    to: '',
  },
  'a limit that replicas do not share during an outage': {
    file: 'redis/presence.ts',
    from: 'return { ...policy, limit: shareOf(left, place) }',
    to: 'return { ...policy, limit: left }',
  },
  'a replica that forgets the others at the end of a long outage': {
    file: 'redis/presence.ts',
    from: '    this.#heardSince = undefined\n',
    to: '    this.#heardSince = monotonic()\n',
  },
  'quota taken ahead while others may have admitted something by themselves': {
    file: 'src/limiter.ts',
    from: 'return check.prefetch === undefined ? check : { ...check, prefetch: undefined }',
    to: 'return check',
  },
  'a return that writes nothing': {
    file: 'redis/outage.ts',
    from: 'if (state.isEmpty) await this.#restore(state)\n    await this.#write(state)',
    to: 'if (state.isEmpty) await this.#restore(state)',
  },
  'checks that a full call leaves behind': {
    file: 'redis/batcher.ts',
    from: 'for (let from = 0; from < checks.length; from += MOST) {',
    to: 'for (let from = 0; from < checks.length - 1; from += MOST) {',
  },
  'a timer that nobody stops': { file: 'redis/presence.ts', from: '    clearInterval(this.#timer)\n', to: '' },
}
