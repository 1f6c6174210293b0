/** The API reference at /docs in a real browser, before the real service and Redis. */
import { readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import type { Page } from 'playwright-core'
import { test } from 'tap'
import { inRedis, startService } from '../support/build.js'
import { launchChromium } from '../support/chromium.js'
import { modelsFolder } from '../support/onnx-folder.js'
import { complaints, openPage, reads } from '../support/page.js'

/** What Swagger UI makes of its own accord, and no style sheet changes, is left out: headings, landmarks, nesting. */
const RULES = [
  'color-contrast',
  'label',
  'select-name',
  'button-name',
  'link-name',
  'image-alt',
  'aria-valid-attr-value',
]

const iris = new URL('../../models/iris/', import.meta.url)

/** The way from the top of the page to an element, by the key Tab alone. */
async function tabTo(page: Page, selector: string): Promise<void> {
  for (let i = 0; i < 120; i++) {
    await page.keyboard.press('Tab')
    if (await page.evaluate(`document.activeElement.matches(${JSON.stringify(selector)})`)) return
  }
  throw new Error(`no way to ${selector} by the keyboard`)
}

test('the API reference', async t => {
  const browser = await launchChromium(t)
  const { url } = await startService(t, {
    ...inRedis(),
    MODELS_DIR: modelsFolder(t, {
      'iris/model.json': readFileSync(fileURLToPath(new URL('model.json', iris)), 'utf8'),
      'iris/1/model.onnx': readFileSync(fileURLToPath(new URL('1/model.onnx', iris))),
    }),
  })
  const phone = { width: 360, height: 740 }

  for (const colorScheme of ['light', 'dark'] as const) {
    await t.test(`on a phone, in ${colorScheme}, a model's own sample is sent by keys alone and answered`, async t => {
      const { page, clean } = await openPage(t, browser, `${url}/docs`, { colorScheme, viewport: phone })
      const operation = '#operations-Model_iris-predict-iris'
      await reads(page, operation, /\/v1\/models\/iris\/predict/)
      await tabTo(page, `${operation} .opblock-summary-control`)
      await page.keyboard.press('Enter')
      await reads(page, `${operation} .try-out__btn`, /Try it out/)
      await tabTo(page, `${operation} .try-out__btn`)
      await page.keyboard.press('Enter')
      await reads(page, `${operation} .execute`, /Execute/)
      await tabTo(page, `${operation} .execute`)
      await page.keyboard.press('Enter')
      await reads(page, `${operation} .live-responses-table`, /200[\s\S]*virginica/)
      await reads(page, `${operation} .live-responses-table`, /x-ratelimit-remaining/)
      t.strictSame(await complaints(page, RULES), [])
      t.equal(await page.evaluate('document.documentElement.scrollWidth'), phone.width, 'no scrolling sideways')
      clean(t)
    })
  }
})
