/** The console in a real browser, before the real service. */
import { join } from 'node:path'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import sharp from 'sharp'
import { type Test, test } from 'tap'
import { buildService, IRIS, startService } from '../support/build.js'
import { launchChromium } from '../support/chromium.js'
import { AS_ADMIN, keysFile, TOKEN } from '../support/keys.js'
import { limitsFile } from '../support/limits-file.js'
import { complaints, openPage, reads, text } from '../support/page.js'
import { until } from '../support/redis-fleet.js'

const LIMITS = {
  anonymous: 'free',
  plans: {
    free: { policies: [{ name: 'requests', limit: 60, window: '1 minute' }] },
    pro: { policies: [{ name: 'requests', limit: 5, window: '1 hour' }] },
  },
}

async function start(t: Test) {
  const service = await startService(t, {
    ...{ KEYS_STORE: keysFile(t), ADMIN_TOKEN: TOKEN, LIMITS_FILE: limitsFile(t, LIMITS).path, USAGE_FLUSH_MS: 200 },
  })
  const create = async (owner: string) => {
    const answer = await fetch(`${service.url}/v1/admin/keys`, {
      method: 'POST',
      headers: { ...AS_ADMIN, 'content-type': 'application/json' },
      body: JSON.stringify({ owner, plan: 'pro' }),
    })
    return (await answer.json()) as { id: string; key: string }
  }
  const ask = async (key: string) => (await service.predict(IRIS, { headers: { 'x-api-key': key } })).status
  return { ...service, create, ask }
}

/** The console, open, with somebody signed in. */
async function open(t: Test, browser: Browser, url: string, options: BrowserContextOptions = {}) {
  const opened = await openPage(t, browser, `${url}/console`, options)
  const { page } = opened
  await page.fill('#token', TOKEN)
  await page.press('#token', 'Enter')
  await until('the keys are shown', async () => !(await page.isHidden('#keys-card')))
  return opened
}

const act = (page: Page, owner: string, what: string) =>
  page.locator('#keys li', { hasText: owner }).locator(`[data-act=${what}]`)

test('the console', async t => {
  // One service for all, since each takes seconds to start; each test has an owner of its own.
  const [browser, { url, create, ask }] = await Promise.all([launchChromium(t), start(t)])

  await t.test('usage, denials and the policies of a key move as it is used', async t => {
    const { key } = await create('user')
    const { page, clean } = await open(t, browser, url)
    await act(page, 'user', 'policies').click()
    await reads(page, '[data-policy=requests] .left', /^5$/)
    for (let index = 0; index < 8; index++) await ask(key)
    await reads(page, '[data-policy=requests] .left', /^0$/)
    await reads(page, '#denials', /ML_RATE_QUOTA_EXCEEDED3/)
    await reads(page, '#by-key', /user · .*5 requests, 5 rows/)
    await reads(page, '#by-model', /iris5 requests/)
    await reads(page, '#total-refused', /^3$/)
    const isInked = `(() => { const canvas = document.querySelector('#over-time canvas')
      return canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some(value => value > 0) })()`
    t.equal(await page.evaluate(isInked), true, 'the chart is drawn')
    clean(t)
  })

  await t.test('with keys alone: sign in, make a key, rotate it, disable it, revoke it', async t => {
    const { page, clean } = await open(t, browser, url)
    await until('the form has the focus', async () => (await page.evaluate('document.activeElement.id')) === 'owner')
    await page.keyboard.type('acme')
    await page.keyboard.press('Tab')
    await page.keyboard.type('pro')
    await page.keyboard.press('Tab')
    await page.keyboard.type('ci')
    await page.keyboard.press('Enter')
    await reads(page, '#issued-key', /^mlk_/)
    const first = await text(page, '#issued-key')
    t.equal(await ask(first), 200)
    await reads(page, '#keys', /acme · ci.*active, plan pro/)

    await act(page, 'acme', 'rotate').press('Enter')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await until('another is shown', async () => (await text(page, '#issued-key')) !== first)
    const second = await text(page, '#issued-key')
    t.equal(await ask(second), 200)
    t.equal(await ask(first), 200, 'for an hour')

    await act(page, 'acme', 'disable').press('Enter')
    await reads(page, '#keys', /disabled/)
    t.equal(await ask(second), 401)
    t.equal(await page.evaluate('document.activeElement.dataset.act'), 'enable', 'the focus stays where it was')
    await page.keyboard.press('Enter')
    const acme = page.locator('#keys li', { hasText: 'acme' })
    await until('it is enabled', async () => (await acme.allInnerTexts()).some(each => each.includes('active')))
    t.equal(await ask(second), 200)

    await act(page, 'acme', 'revoke').press('Enter')
    await page.keyboard.press('Escape')
    t.equal(await ask(second), 200, 'nothing is revoked by Escape')
    await act(page, 'acme', 'revoke').press('Enter')
    await page.keyboard.press('Tab')
    await page.keyboard.press('Enter')
    await until('it is gone', async () => (await page.locator('#keys li', { hasText: 'acme' }).count()) === 0)
    t.equal(await ask(second), 401)
    t.match(
      await page.evaluate('document.activeElement.dataset.act ?? document.activeElement.id'),
      /revoke|filter-owner/,
    )
    clean(t)
  })

  await t.test('a wrong token is told, and a right one is stored nowhere', async t => {
    const { page } = await openPage(t, browser, `${url}/console`)
    await page.fill('#token', 'wrong')
    await page.press('#token', 'Enter')
    await reads(page, '#sign-in-state', /this is not the admin token/)
    t.equal(await page.isHidden('#keys-card'), true)
    await page.fill('#token', TOKEN)
    await page.press('#token', 'Enter')
    await until('it is in', async () => !(await page.isHidden('#keys-card')))
    const stored =
      'JSON.stringify([{ ...localStorage }, { ...sessionStorage }, document.cookie, document.body.innerHTML])'
    t.notMatch((await page.evaluate(stored)) as string, TOKEN)
    await page.click('#sign-out')
    t.equal(await page.isHidden('#keys-card'), true)
    await page.reload()
    t.equal(await page.isHidden('#keys-card'), true, 'gone with the page')
  })

  const brightness = new Map<string, number>()
  for (const colorScheme of ['light', 'dark'] as const) {
    await t.test(`it is accessible and fits a phone in ${colorScheme}`, async t => {
      const owner = `an owner with quite a long name, as there are, in ${colorScheme}`
      const { key } = await create(owner)
      const { page, clean } = await open(t, browser, url, { colorScheme, viewport: { width: 360, height: 740 } })
      await act(page, owner, 'policies').click()
      await ask(key)
      await reads(page, '#by-key', new RegExp(`${owner}.*1 request`))
      t.equal(await page.evaluate('document.documentElement.scrollWidth'), 360, 'no scrolling sideways')
      t.strictSame(await complaints(page), [])
      brightness.set(colorScheme, await brightnessOf(await pictureOf(page, `console-phone-${colorScheme}`)))
      await page.setViewportSize({ width: 1280, height: 900 })
      t.equal(await page.evaluate('document.documentElement.scrollWidth'), 1280)
      await pictureOf(page, `console-${colorScheme}`)
      clean(t)
    })
  }
  const [light = 0, dark = 255] = ['light', 'dark'].map(each => brightness.get(each))
  t.ok(light > 200 && dark < 60, `light is ${light} of 255 and dark ${dark}, as pictures show`)
})

/** What one sees of the page. Kept in the folder that SCREENSHOTS names, for the documentation. */
async function pictureOf(page: Page, name: string): Promise<Buffer> {
  const { SCREENSHOTS } = process.env
  return page.screenshot(SCREENSHOTS === undefined ? {} : { path: join(SCREENSHOTS, `${name}.png`) })
}

/** The mean of all pixels, 0 to 255. */
async function brightnessOf(picture: Buffer): Promise<number> {
  const { channels } = await sharp(picture).greyscale().stats()
  return channels[0]?.mean ?? Number.NaN
}

test('there is no console without an admin token, nor where it is switched off', async t => {
  const status = async (settings: Record<string, string>) =>
    (await (await buildService(t, settings)).ask('/console')).statusCode
  t.equal(await status({}), 404)
  t.equal(await status({ ADMIN_TOKEN: TOKEN, CONSOLE: 'off', KEYS_STORE: keysFile(t) }), 404)
  t.equal(await status({ ADMIN_TOKEN: TOKEN, KEYS_STORE: keysFile(t) }), 200)
})
