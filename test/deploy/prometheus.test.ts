import { spawnSync } from 'node:child_process'
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { IRIS, inRedis, startService } from '../support/build.js'
import { until } from '../support/redis-fleet.js'

const folder = new URL('../../deploy/', import.meta.url)
const read = (file: string) => readFileSync(new URL(file, folder), 'utf8')
const path = (file: string) => fileURLToPath(new URL(file, folder))

interface Rule {
  readonly record?: string
  readonly alert?: string
  readonly expr: string
}
const { groups } = parse(read('prometheus/rules.yml')) as { groups: { rules: Rule[] }[] }
const rules = groups.flatMap(group => group.rules)

const { panels, templating } = JSON.parse(read('grafana/dashboards/service.json')) as {
  panels: { title: string; targets: { expr: string }[] }[]
  templating: { list: { query: string | { query: string } }[] }
}
const queries = templating.list.map(({ query }) => (typeof query === 'string' ? '' : query.query))

/** Names of metrics in an expression: what is neither a function, a label, an operator, a string nor a duration. */
function metricsIn(expression: string): string[] {
  const bare = expression
    .replaceAll(/"[^"]*"/g, '')
    .replaceAll(/\{[^}]*\}/g, '')
    .replaceAll(/\[[^\]]*\]/g, '')
    .replaceAll(/\b(?:by|without|on|ignoring)\s*\([^)]*\)/g, '')
    .replace(/^label_values\((\w+),.*\)$/, '$1')
  return [...bare.matchAll(/[a-zA-Z_:][\w:]*(?!\s*\(|[\w:])/g)]
    .map(([name]) => name)
    .filter(name => !['or', 'and', 'unless'].includes(name))
}

const expressions = [
  ...rules.map(({ expr }) => expr),
  ...panels.flatMap(({ targets }) => targets.map(({ expr }) => expr)),
  ...queries,
]

/** A service that has answered, denied, shed and failed; what it says of that. */
async function metricsOfTraffic(t: Test): Promise<string> {
  const { url, predict } = await startService(t, { ...inRedis(), RATE_LIMIT_MAX: 3, BODY_LIMIT: 65_536 })
  for (let i = 0; i < 4; i++) await predict(IRIS)
  const text = async () => (await fetch(`${url}/metrics`)).text()
  await until('the denial is counted', async () => (await text()).includes('outcome="denied"'))
  return text()
}

t.test('every metric that rules and dashboard name is there after traffic', async t => {
  const answer = await metricsOfTraffic(t)
  const exist = new Set(answer.split('\n').map(line => /^[a-zA-Z_:][\w:]*/.exec(line)?.[0]))
  const declared = new Set([...answer.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name))
  const recorded = new Set(rules.map(({ record }) => record))
  const named = new Set(expressions.flatMap(metricsIn))
  t.ok(named.size > 20, `${named.size} metrics are named`)
  for (const name of named) {
    // `up` is of Prometheus itself. Counters of what has not gone wrong yet have a type and no series.
    t.ok(name === 'up' || exist.has(name) || declared.has(name) || recorded.has(name), name)
  }
})

t.test('every label that an expression selects or groups by is one of its metric', async t => {
  const answer = await metricsOfTraffic(t)
  const labels = new Set([...answer.matchAll(/[{,](\w+)="/g)].map(([, label]) => label))
  // Of Prometheus; of the shed and the errors, which this traffic has none of; and of histograms.
  for (const own of ['instance', 'job', 'reason', 'le']) labels.add(own)
  const used = expressions.flatMap(expression => [
    ...[...expression.matchAll(/[{,]\s*(\w+)\s*(?:=~|!~|!=|=)\s*"/g)].map(([, label]) => label),
    ...[...expression.matchAll(/\bby \(([^)]*)\)/g)].flatMap(([, list]) => (list as string).split(/,\s*/)),
  ])
  for (const label of new Set(used)) t.ok(labels.has(label), `${label}`)
})

t.test('alerts say what is wrong and how bad it is; panels have names of their own', async t => {
  for (const rule of rules as (Rule & { labels?: { severity?: string }; annotations?: { summary?: string } })[]) {
    if (rule.alert === undefined) continue
    t.ok(rule.annotations?.summary, rule.alert)
    t.match(rule.labels?.severity, /^(?:critical|warning)$/, rule.alert)
  }
  t.equal(new Set(panels.map(({ title }) => title)).size, panels.length)
})

t.test('no expression names a job: a user may call it anything', async t => {
  for (const expression of expressions) t.notMatch(expression, /\bjob\s*(?:=~|!~|!=|=)/)
})

t.test('every alert has a test in which it fires, and one in which it does not', async t => {
  const { tests } = parse(read('prometheus/rules.test.yml')) as {
    tests: { alert_rule_test: { alertname: string; exp_alerts?: object[] }[] }[]
  }
  const cases = tests.flatMap(({ alert_rule_test }) => alert_rule_test)
  for (const { alert } of rules) {
    if (alert === undefined) continue
    const ofAlert = cases.filter(({ alertname }) => alertname === alert)
    t.ok(
      ofAlert.some(({ exp_alerts = [] }) => exp_alerts.length > 0),
      `${alert} fires`,
    )
    t.ok(
      ofAlert.some(({ exp_alerts = [] }) => exp_alerts.length === 0),
      `${alert} does not fire`,
    )
  }
})

const { error } = spawnSync('promtool', ['--version'])
t.test(
  'promtool takes rules, their tests, configuration and the answer of /metrics',
  { skip: error === undefined ? false : 'promtool is not installed (Debian: apt-get install prometheus)' },
  async t => {
    const run = (args: string[], input?: string) => spawnSync('promtool', args, { encoding: 'utf8', input })
    for (const args of [
      ['check', 'rules', path('prometheus/rules.yml')],
      ['test', 'rules', path('prometheus/rules.test.yml')],
      ['check', 'config', path('prometheus/prometheus.yml')],
    ]) {
      const { status, stdout, stderr } = run(args)
      t.equal(status, 0, `${args.join(' ')}: ${stdout}${stderr}`)
    }
    const { stdout, stderr } = run(['check', 'metrics'], await metricsOfTraffic(t))
    // It also has opinions on names that prom-client chose; only ours are ours to answer for.
    const ours = `${stdout}${stderr}`.split('\n').filter(line => /^(?:http|rate_limit|inference)_|error/.test(line))
    t.strictSame(ours, [])
  },
)
