import { readFileSync } from 'node:fs'
import sharp from 'sharp'
import t from 'tap'
import { buildService } from '../support/build.js'
import { onePlan } from '../support/limits-file.js'

t.setTimeout(300_000)

t.test('digits takes a picture as the body, and several in base64', async t => {
  const { ask, predict, models } = await buildService(t)
  const { features } = models.get('digits').info.sample as { features: readonly number[] }
  // The sample as somebody would have drawn it: black ink on white paper.
  const ink = Buffer.from(features.map(value => Math.round(255 - (value * 255) / 16)))
  const picture = await sharp(ink, { raw: { width: 8, height: 8, channels: 1 } })
    .png()
    .toBuffer()
  const wanted = (await predict({ model: 'digits', features })).json().predictions[0]
  const url = '/v1/models/digits/predict'
  const body = await ask({ method: 'POST', url, payload: picture, headers: { 'content-type': 'image/png' } })
  t.equal(body.statusCode, 200)
  t.equal(body.json().predictions[0].label, wanted.label)
  const base64 = picture.toString('base64')
  const { predictions } = (await predict({ model: 'digits', images: [base64, base64] })).json()
  t.strictSame(
    predictions.map(({ label }: { label: string }) => label),
    [wanted.label, wanted.label],
  )
  t.match((await predict({ model: 'digits', images: 'no picture' })).json(), {
    status: 400,
    errors: [{ path: 'images' }],
  })
  t.match((await predict({ model: 'iris', images: base64 })).json(), {
    status: 400,
    detail: /'iris' takes no pictures/,
  })
  t.match((await predict({ model: 'digits', images: base64, features })).json(), { detail: /exclude each other/ })
  const wrong = await ask({ method: 'POST', url, payload: 'text', headers: { 'content-type': 'image/png' } })
  t.match(wrong.json(), { status: 400, code: 'INFERENCE_INVALID_INPUT', detail: /is not a picture/ })
})

t.test('pictures are charged before they are decoded, and not if they cannot be', async t => {
  const LIMITS_FILE = onePlan(t, [
    { name: 'requests', limit: 10, window: '1 hour' },
    { name: 'rows', unit: 'rows', limit: 3, window: '1 hour' },
    { name: 'compute', unit: 'compute-ms', limit: 1000, window: '1 hour' },
  ])
  const { ask } = await buildService(t, { LIMITS_FILE })
  const png = await sharp({ create: { width: 8, height: 8, channels: 3, background: '#fff' } })
    .png()
    .toBuffer()
  const send = (images: readonly Buffer[]) => {
    const payload = { images: images.map(each => each.toString('base64')) }
    return ask({ method: 'POST', url: '/v1/models/digits/predict', payload })
  }
  const broken = png.subarray(0, 40)
  t.equal((await send([png, broken])).statusCode, 400)
  const left = async () =>
    (await ask('/v1/limits')).json().policies.map((each: { remaining: number }) => each.remaining)
  t.strictSame(await left(), [9, 3, 1000])
  t.equal((await send([png, png])).statusCode, 200)
  t.equal((await send([png, broken])).statusCode, 429, 'who has no rows left has nothing decoded')
  t.strictSame((await left()).slice(0, 2), [7, 1])
})

t.test('digits-picture reads pictures as people have them: of any size, in any of the formats', async t => {
  const { ask, predict } = await buildService(t, { RATE_LIMIT_MAX: 1000 })
  const golden = JSON.parse(
    readFileSync(new URL('../../models/digits-picture/1/golden.json', import.meta.url), 'utf8'),
  ) as { inputs: { image: number[][][][] }; labels: string[] }
  const send = async (payload: Buffer, format: string) => {
    const headers = { 'content-type': `image/${format}` }
    const answer = await ask({ method: 'POST', url: '/v1/models/digits-picture/predict', payload, headers })
    t.equal(answer.statusCode, 200)
    return answer.json().predictions[0]
  }
  let agreed = 0
  for (const [i, rows] of golden.inputs.image.slice(0, 10).entries()) {
    const drawn = () => sharp(Buffer.from(rows.flat(2)), { raw: { width: 32, height: 32, channels: 1 } })
    const wanted = (await predict({ model: 'digits-picture', features: rows })).json().predictions[0]
    t.strictSame(await send(await drawn().png().toBuffer(), 'png'), wanted, 'the very pixels')
    const large = drawn().resize(640, 480, { fit: 'fill' })
    const labels = [
      await send(await large.clone().jpeg().toBuffer(), 'jpeg'),
      await send(await large.clone().webp().toBuffer(), 'webp'),
    ].map(({ label }) => label)
    t.equal(wanted.label, golden.labels[i])
    if (labels.every(label => label === wanted.label)) agreed++
  }
  t.ok(agreed >= 9, `${agreed} of 10 large ones have the same label`)
})
