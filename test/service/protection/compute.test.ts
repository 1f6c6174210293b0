import t from 'tap'
import { buildService, STORES } from '../../support/build.js'
import { onePlan } from '../../support/limits-file.js'
import { openFolder } from '../../support/onnx-folder.js'
import { slow } from '../../support/onnx-models.js'

const policies = [
  { name: 'requests', limit: 100, window: '10 minutes' },
  { name: 'compute', unit: 'compute-ms', limit: 20, window: '10 minutes' },
]

for (const { name, settings } of STORES) {
  t.test(`what a run took is charged when it is over, by either protocol, ${name}`, async t => {
    const { models } = await openFolder(t, { 'slow/1/model.onnx': slow(512, 16) })
    const { ask, predict } = await buildService(t, { ...settings(), LIMITS_FILE: onePlan(t, policies) }, models)
    const standing = async () => (await ask('/v1/limits')).json().policies
    t.match(await standing(), [
      { name: 'requests', remaining: 100 },
      { name: 'compute', unit: 'compute-ms', limit: 20, remaining: 20, resetSeconds: 0 },
    ])
    const infer = { inputs: [{ name: 'x', datatype: 'FP32', shape: [1, 1], data: [1] }] }
    const answers = []
    // As long as it takes to use them up, on however fast a machine.
    for (let i = 0; i < 90; i++) {
      const answer =
        i % 2 === 0
          ? await predict({ features: [1] })
          : await ask({ method: 'POST', url: '/v2/models/slow/infer', payload: infer })
      answers.push(answer)
      if (answer.statusCode === 429) break
    }
    const denied = answers.pop()
    t.equal(denied?.statusCode, 429)
    t.ok(answers.length > 0 && answers.every(({ statusCode }) => statusCode === 200))
    t.ok(Number(denied?.headers['retry-after']) > 500, 'until the first has left')
    t.equal(denied?.headers['x-ratelimit-limit'], '20', 'and says what it is about')
    t.match(answers[0]?.headers, { 'x-ratelimit-limit': '100', 'ratelimit-policy': /"compute";q=20;w=600/ })
    const spent = answers
      .map(({ headers }) => Number(/compute;dur=([\d.]+)/.exec(String(headers['server-timing']))?.[1]))
      .reduce((sum, ms) => sum + ms, 0)
    t.ok(spent > 10, `${spent} ms, each rounded to a whole one`)
    const [requests, compute] = await standing()
    t.equal(compute.remaining, 0)
    t.equal(requests.remaining, 100 - answers.length, 'a request denied for it costs nothing')
  })
}
