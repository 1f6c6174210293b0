import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { buildService } from '../support/build.js'

interface Golden {
  readonly inputs: Readonly<Record<string, readonly number[][]>>
  readonly outputs: Readonly<Record<string, readonly number[][]>>
  readonly labels: readonly string[]
}

interface Answer {
  readonly model: string
  readonly version: string
  readonly predictions: readonly { label: string; score: number; outputs: { probabilities: number[] } }[]
}

const golden = (model: string): Golden =>
  JSON.parse(readFileSync(fileURLToPath(new URL(`../../models/${model}/1/golden.json`, import.meta.url)), 'utf8'))

for (const model of ['iris', 'digits', 'digits-picture', 'digits-wide']) {
  t.test(`${model}: every golden row comes back as the training framework answered it, within 1e-4`, async t => {
    const { ask } = await buildService(t, { RATE_LIMIT_MAX: 1000 })
    const { inputs, outputs, labels } = golden(model)
    const rows = Object.values(inputs)[0] as readonly number[][]
    const expected = Object.values(outputs)[0] as readonly number[][]
    t.ok(rows.length >= 30)

    const predict = async (payload: object) => {
      const response = await ask({ method: 'POST', url: '/v1/predict', payload: { model, ...payload } })
      t.equal(response.statusCode, 200)
      return response.json<Answer>()
    }
    const checkRow = ({ label, score, outputs: { probabilities } }: Answer['predictions'][number], row: number) => {
      const reference = expected[row] as number[]
      t.equal(probabilities.length, reference.length)
      const worst = Math.max(...probabilities.map((value, i) => Math.abs(value - (reference[i] as number))))
      t.ok(worst <= 1e-4, `row ${row} is off by ${worst}`)
      t.equal(label, labels[row])
      t.equal(score, Math.max(...probabilities))
    }

    for (const [row, features] of rows.entries()) {
      const answer = await predict({ features })
      t.equal(answer.model, model)
      t.equal(answer.predictions.length, 1)
      checkRow(answer.predictions[0] as Answer['predictions'][number], row)
    }
    const together = await predict({ features: rows })
    t.equal(together.predictions.length, rows.length, 'one prediction a row')
    for (const [row, prediction] of together.predictions.entries()) checkRow(prediction, row)
    const byName = await predict({ inputs })
    t.equal(byName.predictions.length, rows.length, 'rows by the name of the input')
  })
}

t.test('each model carries a sample that it takes, and says how good it is', async t => {
  const { ask } = await buildService(t)
  const { models } = (await ask('/v1/models')).json()
  t.strictSame(
    models.map(({ name }: { name: string }) => name),
    ['digits', 'digits-picture', 'digits-wide', 'iris'],
  )
  for (const { name, sample: shown, sampleUrl, testAccuracy, labels, inputs, versions } of models) {
    // A long one is behind a link.
    const sample = shown ?? (await ask(sampleUrl)).json()
    t.ok(testAccuracy > 0.9, name)
    t.ok(labels.length >= 3)
    t.strictSame(versions, ['1'])
    t.equal(inputs[0].datatype, 'FP32')
    t.equal((await ask({ method: 'POST', url: '/v1/predict', payload: sample })).statusCode, 200)
    const { model: _, ...unnamed } = sample
    t.equal((await ask({ method: 'POST', url: `/v1/models/${name}/predict`, payload: unnamed })).statusCode, 200)
  }
})
