import { runInNewContext } from 'node:vm'
import type { RateLimitPluginOptions } from 'ml-api-rate-limiter'
import t from 'tap'
import { isThenable, then } from '../../plugin/src/awaitable.js'
import { ask, limited, STORES, statuses } from '../support/plugin.js'

/** A query as builders of SQL make them: no promise, and it runs at each call of `then`. */
class Query<T> {
  runs = 0
  readonly #result: T

  constructor(result: T) {
    this.#result = result
  }

  // biome-ignore lint/suspicious/noThenProperty: what is tested
  then(resolve: (result: T) => void): void {
    this.runs++
    resolve(this.#result)
  }
}

/** Ways to give a value later, as they are found in apps. */
const LATER: Readonly<Record<string, <T>(value: T) => PromiseLike<T>>> = {
  'a promise': async value => value,
  'a promise of another realm': value => {
    const { resolve } = runInNewContext('({ resolve: value => Promise.resolve(value) })') as {
      resolve: <T>(value: T) => Promise<T>
    }
    return resolve(value)
  },
  'a query builder': value => new Query(value) as unknown as PromiseLike<Awaited<typeof value>>,
  'a function with then': value =>
    // biome-ignore lint/suspicious/noThenProperty: what is tested
    Object.assign(() => {}, { then: (resolve: (result: unknown) => void) => resolve(value) }) as never,
  'a subclass of Promise': value => class extends Promise<never> {}.resolve(value as never),
}

const wild = (options: object) => options as RateLimitPluginOptions

for (const [what, later] of Object.entries(LATER)) {
  for (const { name, options } of STORES) {
    t.test(`${name}: ${what} is waited for wherever an option is a function`, async t => {
      const own = { max: () => later(2), timeWindow: () => later(60_000), cost: () => later(1) }
      const shared = { ...options(t), keyGenerator: () => later('lone') }
      const single = await limited(t, wild({ ...shared, ...own, allowList: () => later(false) }))
      t.strictSame(await statuses(single, 3), [200, 200, 429])

      const policies = [
        { name: 'a', ...own },
        { name: 'b', ...own, max: () => later(1) },
      ]
      const several = await limited(t, wild({ ...options(t), keyGenerator: shared.keyGenerator, policies }))
      t.strictSame(await statuses(several, 2), [200, 429])

      const built = await limited(t, wild({ ...options(t), max: 0, errorResponseBuilder: () => later({ own: true }) }))
      t.match((await ask(built)).json(), { own: true })
    })
  }

  t.test(`${what} of the allow list is waited for, and then read as true or false`, async t => {
    for (const [answer, expected] of [
      [true, [200, 200]],
      ['yes', [200, 200]],
      [1, [200, 200]],
      [false, [200, 429]],
      [undefined, [200, 429]],
      [0, [200, 429]],
      ['', [200, 429]],
    ] as const) {
      const app = await limited(t, wild({ max: 1, allowList: () => later(answer) }))
      t.strictSame(await statuses(app, 2), expected, String(answer))
    }
  })
}

t.test('a query that a function of the options gives runs once a request', async t => {
  const queries: Query<unknown>[] = []
  const query = (result: unknown) => () => {
    const made = new Query(result)
    queries.push(made)
    return made
  }
  const app = await limited(
    t,
    wild({
      keyGenerator: query('lone'),
      max: query(0),
      timeWindow: query(1000),
      cost: query(1),
      allowList: query(false),
      errorResponseBuilder: query({ statusCode: 429 }),
    }),
  )
  t.equal((await ask(app)).statusCode, 429)
  t.equal(queries.length, 6)
  for (const { runs } of queries) t.equal(runs, 1)
})

t.test('a rejection of any realm is an error of the request, and never lets it pass', async t => {
  const reject = () => runInNewContext("Promise.reject(new Error('away'))")
  for (const name of ['keyGenerator', 'max', 'timeWindow', 'cost', 'allowList']) {
    const app = await limited(t, wild({ max: 1, [name]: reject }))
    t.equal((await ask(app)).statusCode, 500, name)
  }
})

t.test('what is there already is taken at once, and what has no then is never waited for', async t => {
  // biome-ignore lint/suspicious/noThenProperty: what is tested
  const unfit = { then: 1 }
  for (const value of [undefined, null, 0, '', 'then', true, Symbol('then'), {}, unfit, () => {}]) {
    t.notOk(isThenable(value))
    t.equal(
      then(value, () => 'at once'),
      'at once',
    )
  }
})
