/** A Chromium for the tests of pages: CHROMIUM_PATH, else one on the PATH, else Debian's package, which is installed. */
import { type Browser, chromium } from 'playwright-core'
import type { Test } from 'tap'
import { findProgram } from './program.js'

const NAMES = ['chromium', 'chromium-browser', 'google-chrome']

const ARGS = [
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
]

/** Throws where none is to be had: a test of a page that was not opened proves nothing. Closes with the test. */
export async function launchChromium(t: Test): Promise<Browser> {
  const executablePath = process.env.CHROMIUM_PATH || findProgram(NAMES, 'chromium')
  if (executablePath === undefined) {
    throw new Error('no Chromium to test with: set CHROMIUM_PATH, or install it (Debian: apt-get install chromium)')
  }
  const { PATH = '', HOME = '' } = process.env
  const browser = await chromium.launch({ executablePath, args: ARGS, headless: true, env: { PATH, HOME } })
  t.teardown(() => browser.close())
  return browser
}
