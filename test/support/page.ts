/** A page of the service in a browser, with what it must never do: fail, or ask another origin. */
import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import type { Test } from 'tap'
import { until } from './redis-fleet.js'

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js')

/** Opens it; `clean` says that the page has done neither. A 429 is no fault: Chromium logs it, and a burst is for it. */
export async function openPage(t: Test, browser: Browser, url: string, options: BrowserContextOptions = {}) {
  const context = await browser.newContext(options)
  const page = await context.newPage()
  const faults: string[] = []
  const strangers: string[] = []
  page.on('console', message => {
    if (message.type() === 'error' && !message.text().includes('status of 429')) faults.push(message.text())
  })
  page.on('pageerror', error => faults.push(error.message))
  page.on('request', request => {
    const { origin, protocol } = new URL(request.url())
    if (origin !== new URL(url).origin && protocol !== 'data:') strangers.push(request.url())
  })
  t.teardown(async () => {
    await context.close()
  })
  await page.goto(url)
  const clean = (test: Test) => {
    test.strictSame(faults, [], 'nothing on the console')
    test.strictSame(strangers, [], 'nothing left the origin')
  }
  return { page, clean }
}

export const text = async (page: Page, selector: string) => (await page.textContent(selector)) ?? ''

/** Asked from here: the policy of our pages keeps Playwright's own waiting out. */
export const reads = (page: Page, selector: string, wanted: RegExp) =>
  until(`${selector} reads ${wanted}`, async () => wanted.test(await text(page, selector)))

interface Found {
  readonly id: string
  readonly nodes: readonly { readonly html: string }[]
}

/**
 * What a machine can tell of accessibility, contrast included, and where it cannot tell the contrast. With `rules`, for
 * a page that is not all ours: what it can tell by these alone.
 */
export async function complaints(page: Page, rules?: readonly string[]): Promise<string[]> {
  // As source, since the page's policy lets nothing else in.
  await page.evaluate(readFileSync(AXE, 'utf8'))
  const options = rules === undefined ? {} : { runOnly: rules, resultTypes: ['violations'] }
  const { violations, incomplete } = (await page.evaluate(`axe.run(${JSON.stringify(options)})`)) as Record<
    'violations' | 'incomplete',
    Found[]
  >
  const unclear = rules === undefined ? incomplete.filter(({ id }) => id === 'color-contrast') : []
  return [...violations, ...unclear].map(({ id, nodes }) => `${id}: ${nodes.map(({ html }) => html).join(' ')}`)
}
