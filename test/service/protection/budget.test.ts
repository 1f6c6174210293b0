/** Calendar budgets of plans. */
import { type Decision, QuotaExceeded } from 'ml-api-rate-limiter'
import t from 'tap'
import { faultOf } from '../../../service/src/http/problem.js'
import { readPlans } from '../../../service/src/protection/plans.js'
import { buildService, IRIS, STORES } from '../../support/build.js'
import { limitsFile, rowsOf } from '../../support/limits-file.js'

const requests = { name: 'requests', limit: 100, window: '1 minute' }
const plan = (budget: unknown) => ({ anonymous: 'p', plans: { p: { policies: [requests], budget } } })

for (const { name, settings } of STORES) {
  t.test(`a budget in rows is charged with them, denies beyond, and is told apart from windows, ${name}`, async t => {
    const budget = { limit: 10, per: 'month', unit: 'rows' }
    const { predict, ask } = await buildService(t, { ...settings(), LIMITS_FILE: limitsFile(t, plan(budget)).path })
    const first = await predict(rowsOf(7))
    t.equal(first.statusCode, 200)
    t.equal(first.headers['ratelimit-policy'], '"requests";q=100;w=60, "budget-rows";q=10;period="month"')
    const denied = await predict(rowsOf(4))
    t.equal(denied.statusCode, 429)
    const [{ resetsAt }] = denied.json()['violated-budgets']
    t.match(resetsAt, /^\d{4}-\d\d-01T00:00:00.000Z$/)
    t.match(denied.json(), {
      detail: `The budget 'budget-rows' of this month has 3 left, too little for this request, until ${resetsAt}`,
      'violated-policies': ['budget-rows'],
      'violated-budgets': [{ name: 'budget-rows', period: 'month' }],
    })
    t.equal((await predict(rowsOf(3))).statusCode, 200, 'what fits is served')
    t.match((await predict(IRIS)).json(), {
      detail: `The budget 'budget-rows' of this month is used up until ${resetsAt}`,
    })
    const { policies } = (await ask('/v1/limits')).json()
    t.match(policies[1], { name: 'budget-rows', unit: 'rows', limit: 10, remaining: 0, period: 'month' })
    t.notOk('windowSeconds' in policies[1])
    t.equal(policies[0].windowSeconds, 60)
  })

  t.test(`a budget in requests is one decision with the windows, ${name}`, async t => {
    const budget = [
      { limit: 2, per: 'day' },
      { name: 'month', limit: 9, per: 'month', models: ['iris'] },
    ]
    const { predict, ask } = await buildService(t, { ...settings(), LIMITS_FILE: limitsFile(t, plan(budget)).path })
    for (const status of [200, 200, 429]) t.equal((await predict(IRIS)).statusCode, status)
    t.match((await ask('/v1/limits')).json().policies, [
      { name: 'requests', remaining: 98 },
      { name: 'budget', remaining: 0, period: 'day' },
      { name: 'month', remaining: 7, period: 'month', models: ['iris'] },
    ])
  })
}

t.test('a wrong budget is named by its path', async t => {
  const problem = (budget: unknown) => {
    try {
      readPlans(limitsFile(t, plan(budget)).path)
      return ''
    } catch (error) {
      return (error as Error).message
    }
  }
  t.equal(problem({ limit: 1, per: 'month' }), '')
  t.match(problem({ limit: 1, per: 'year' }), /plans\/p\/budget/)
  t.match(problem({ limit: -1, per: 'day' }), /plans\/p\/budget/)
  t.match(
    problem([
      { limit: 1, per: 'day' },
      { limit: 1, per: 'month' },
    ]),
    /budget\/1 needs a name/,
  )
  t.match(
    problem({ name: 'concurrency', limit: 1, per: 'month' }),
    /budget\/0\/name is the name of what limits requests in flight/,
  )
})

t.test('a denial names the midnight at which the budget ends, however far the clock of the store is off', async t => {
  const endsAt = Date.UTC(2126, 0, 1)
  for (const offMs of [-90_000, 0, 1, 90_000]) {
    const policies = [{ name: 'budget', period: 'month', reset: endsAt + offMs - Date.now() }]
    const decision = { policies, violated: ['budget'], retryAfterMs: 1 } as unknown as Decision
    const { members } = faultOf(new QuotaExceeded('some days', 429, decision))
    t.match(members, { 'violated-budgets': [{ resetsAt: '2126-01-01T00:00:00.000Z' }] })
  }
})
