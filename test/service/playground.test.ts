/** The playground in a real browser, before the real service and Redis. */
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { type Test, test } from 'tap'
import { inRedis, startService } from '../support/build.js'
import { launchChromium } from '../support/chromium.js'
import { onePlan } from '../support/limits-file.js'
import { complaints, openPage, reads, text } from '../support/page.js'
import { until } from '../support/redis-fleet.js'

/** The playground, open, and its first answer there. */
async function open(t: Test, browser: Browser, url: string, options: BrowserContextOptions = {}) {
  const opened = await openPage(t, browser, url, options)
  await reads(opened.page, '#verdict', /^9$/)
  return opened
}

/** The first figure that is told, NaN where there is none yet. */
const figure = async (page: Page, selector: string) => Number(/\d+/.exec(await text(page, selector))?.[0] ?? Number.NaN)

test('the playground', async t => {
  const browser = await launchChromium(t)
  const settings = { RATE_LIMIT_MAX: 40, RATE_LIMIT_WINDOW: '6s' }
  const start = (more = {}) => startService(t, { ...inRedis(), ...settings, ...more })

  await t.test('a drawing by mouse or by keys alone changes the prediction', async t => {
    const { url } = await start()
    const { page, clean } = await open(t, browser, url)
    await page.click('#clear')
    await reads(page, '#verdict', /^–$/)
    const box = await page.locator('#pad').boundingBox()
    if (box === null) throw new Error('the pad is not shown')
    const at = (row: number) => [box.x + (box.width * 7) / 16, box.y + (box.height * (row + 0.5)) / 8] as const
    await page.mouse.move(...at(0))
    await page.mouse.down()
    for (let row = 1; row < 8; row++) await page.mouse.move(...at(row), { steps: 3 })
    await page.mouse.up()
    await reads(page, '#verdict', /^[0-9]$/)
    t.equal(await page.locator('#pad [aria-pressed=true]').count(), 8, 'a stroke of eight cells')

    await page.click('#clear')
    await reads(page, '#verdict', /^–$/)
    await page.focus('#pad [tabindex="0"]')
    for (const key of ['ArrowRight', 'ArrowRight', 'Space', 'ArrowRight', 'Enter', 'ArrowDown', 'Space']) {
      await page.keyboard.press(key)
    }
    t.equal(await page.locator('#pad [aria-pressed=true]').count(), 3)
    await reads(page, '#verdict', /^[0-9]$/)
    clean(t)
  })

  await t.test('a finger draws, and does not scroll the page', async t => {
    const { url } = await start()
    const { page, clean } = await open(t, browser, url, {
      viewport: { width: 360, height: 740 },
      hasTouch: true,
      isMobile: true,
    })
    await page.tap('#clear')
    await reads(page, '#verdict', /^–$/)
    const box = await page.locator('#pad').boundingBox()
    if (box === null) throw new Error('the pad is not shown')
    const scrolled = await page.evaluate('scrollY')
    const finger = await page.context().newCDPSession(page)
    const touch = (type: 'touchStart' | 'touchMove' | 'touchEnd', row?: number) =>
      finger.send('Input.dispatchTouchEvent', {
        type,
        touchPoints:
          row === undefined ? [] : [{ x: box.x + (box.width * 7) / 16, y: box.y + (box.height * (row + 0.5)) / 8 }],
      })
    await touch('touchStart', 0)
    for (let row = 1; row < 8; row++) await touch('touchMove', row)
    await touch('touchEnd')
    await until('eight cells are inked', async () => (await page.locator('#pad [aria-pressed=true]').count()) === 8)
    await reads(page, '#verdict', /^[0-9]$/)
    t.equal(await page.evaluate('scrollY'), scrolled)
    clean(t)
  })

  await t.test('every control is reached and used with the keyboard', async t => {
    const { url } = await start()
    const { page, clean } = await open(t, browser, url)
    const visible = `[...document.querySelectorAll('a[href], button:not([tabindex="-1"]), input, select, textarea')]
      .filter(element => element.checkVisibility())`
    const controls = (await page.evaluate(`${visible}.length`)) as number
    const reached: string[] = []
    for (let i = 0; i < controls; i++) {
      await page.keyboard.press('Tab')
      const { name, outline } = (await page.evaluate(`(() => {
        const { activeElement } = document
        const { outlineStyle, outlineWidth } = getComputedStyle(activeElement)
        const name = activeElement.closest('#pad')?.id ?? (activeElement.id || activeElement.getAttribute('href'))
        return { name, outline: outlineStyle !== 'none' && parseFloat(outlineWidth) >= 2 }
      })()`)) as { name: string; outline: boolean }
      t.ok(outline, `${name} shows that it has the focus`)
      reached.push(name)
    }
    t.strictSame(reached, [
      ...['#main', '/docs', '/v1/models', '/health/ready', 'pad', 'clear', 'example', 'burst-size', 'fire'],
      ...['model', 'picture', 'body', 'send-button'],
    ])
    for (const model of ['digits-wide', 'iris']) {
      await page.focus('#model')
      await page.keyboard.type(model)
      await page.keyboard.press('Tab')
      await page.keyboard.press('Tab')
      await page.keyboard.press('Enter')
      await reads(page, '#reply', new RegExp(`"model": "${model}"[^]*"label"`))
    }
    t.match(await text(page, '#reply'), /virginica/)
    t.match(await text(page, '#reply-status'), /^200, /)
    clean(t)
    // Chromium logs what is refused.
    await page.fill('#body', '{ "model": "iris", "features": [1] }')
    await page.focus('#send-button')
    await page.keyboard.press('Enter')
    await reads(page, '#reply', /INFERENCE_INVALID_INPUT/)
    await page.fill('#body', '{')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await reads(page, '#reply', /INVALID_JSON/)
  })

  await t.test(
    'a burst is denied beyond the quota, counts down, and the quota comes back, policy by policy',
    async t => {
      const policies = [
        { name: 'requests', limit: 40, window: '6s' },
        { name: 'hour', limit: 1000, window: '1h' },
      ]
      const { url } = await start({ LIMITS_FILE: onePlan(t, policies) })
      const { page, clean } = await open(t, browser, url)
      await page.fill('#burst-size', '60')
      await page.focus('#fire')
      await page.keyboard.press('Enter')
      await reads(page, '#burst-result', /denied in/)
      const [, allowed, denied] = /(\d+) allowed, (\d+) denied/.exec(await text(page, '#burst-result')) ?? []
      t.equal(Number(allowed) + Number(denied), 60)
      t.ok(Number(allowed) < 40, 'the drawing had cost one')
      t.equal(await page.locator('#shots .denied').count(), Number(denied))
      await page.waitForSelector('#denied:not([hidden])')
      const first = await figure(page, '#countdown')
      t.ok(first >= 1 && first <= 6)
      t.match(await text(page, '#denied-policies'), /requests/)
      t.notMatch(await text(page, '#denied-policies'), /hour/)
      await until('the countdown falls', async () => (await figure(page, '#countdown')) < first)
      await page.waitForSelector('#denied', { state: 'hidden' })
      await until('quota is back', async () => (await figure(page, '[data-policy=requests] .left')) > 30)
      t.ok((await figure(page, '[data-policy=hour] .left')) < 1000 - Number(allowed), 'and of an hour it is not')
      clean(t)
    },
  )

  await t.test('the charts follow the service, and do not keep it from stopping', async t => {
    const { url, child, ended, predict } = await start()
    const { page, clean } = await open(t, browser, url)
    await reads(page, '#live-state', /^live/)
    const seen = Promise.all(
      ['allowed', 'denied', 'median', 'mean'].map(series => reads(page, `[data-series=${series}]`, /[1-9]/)),
    )
    await Promise.all(Array.from({ length: 60 }, () => predict()))
    await seen
    const inked = `[...document.querySelectorAll('#charts canvas')].map(canvas => canvas.getContext('2d')
      .getImageData(0, 0, canvas.width, canvas.height).data.some(value => value > 0))`
    t.strictSame(await page.evaluate(inked), [true, true, true, true], 'all four are drawn')
    clean(t)
    child.kill('SIGTERM')
    t.equal((await ended).code, 0)
    await reads(page, '#live-state', /^connection lost/)
  })

  for (const colorScheme of ['light', 'dark'] as const) {
    await t.test(`it is accessible and fits a phone in ${colorScheme}`, async t => {
      const { url } = await start()
      const { page, clean } = await open(t, browser, url, { colorScheme, viewport: { width: 360, height: 740 } })
      t.equal(await page.evaluate('document.documentElement.scrollWidth'), 360, 'no scrolling sideways')
      await page.fill('#burst-size', '60')
      await page.click('#fire')
      await page.waitForSelector('#denied:not([hidden])')
      t.strictSame(await complaints(page), [])
      clean(t)
    })
  }

  await t.test('only so many may listen; the next are told to come later', async t => {
    const { url } = await start()
    const ending = new AbortController()
    t.teardown(() => ending.abort())
    const listen = () => fetch(`${url}/v1/events`, { signal: ending.signal })
    const statuses = await Promise.all(Array.from({ length: 33 }, async () => (await listen()).status))
    t.strictSame(statuses.sort(), [...new Array(32).fill(200), 503])
  })
})
