import sharp from 'sharp'
import t from 'tap'
import { buildService } from '../support/build.js'

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
  t.match(wrong.json(), { status: 400, code: 'INFERENCE_INVALID_INPUT', detail: /is no picture/ })
})
