/** A Chromium for the tests of pages: CHROMIUM_PATH, else one on the PATH, else Debian's package, which is installed. */
import { spawnSync } from 'node:child_process'
import { accessSync, constants } from 'node:fs'
import { delimiter, join } from 'node:path'
import { type Browser, chromium } from 'playwright-core'
import type { Test } from 'tap'

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

function onPath(): string | undefined {
  for (const folder of (process.env.PATH ?? '').split(delimiter).filter(Boolean)) {
    for (const name of NAMES) {
      const file = join(folder, name)
      try {
        accessSync(file, constants.X_OK)
        return file
      } catch {}
    }
  }
  return undefined
}

function installed(): string | undefined {
  if (process.getuid?.() !== 0) return undefined
  const env = { ...process.env, DEBIAN_FRONTEND: 'noninteractive' }
  const apt = (...args: string[]) => spawnSync('apt-get', args, { env }).status === 0
  const install = () => apt('install', '-y', '--no-install-recommends', 'chromium')
  return install() || (apt('update') && install()) ? onPath() : undefined
}

/** Throws where none is to be had: a test of a page that was not opened proves nothing. Closes with the test. */
export async function launchChromium(t: Test): Promise<Browser> {
  const executablePath = process.env.CHROMIUM_PATH || onPath() || installed()
  if (executablePath === undefined) {
    throw new Error('no Chromium to test with: set CHROMIUM_PATH, or install it (Debian: apt-get install chromium)')
  }
  const { PATH = '', HOME = '' } = process.env
  const browser = await chromium.launch({ executablePath, args: ARGS, headless: true, env: { PATH, HOME } })
  t.teardown(() => browser.close())
  return browser
}
