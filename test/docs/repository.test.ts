/** The address of the repository is set in one place. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { childEnv } from '../support/child-env.js'
import { root } from './markdown.js'

const FILES = ['package.json', 'plugin/package.json', 'service/package.json']
const PAGES = ['plugin/README.md', 'plugin/STABILITY.md', 'service/README.md']
const SCRIPT = 'scripts/repository.mjs'

/** What the script prints in a folder, or how it fails. */
function said(folder: string, ...args: string[]): string {
  try {
    const options = { encoding: 'utf8', stdio: 'pipe', env: childEnv() } as const
    return execFileSync(process.execPath, [join(folder, SCRIPT), ...args], options).trim()
  } catch (error) {
    return (error as { stderr: string }).stderr.trim()
  }
}

function copied(t: Test): string {
  const folder = t.testdir()
  for (const file of [...FILES, ...PAGES, SCRIPT]) {
    mkdirSync(dirname(join(folder, file)), { recursive: true })
    cpSync(new URL(file, root), join(folder, file))
  }
  return folder
}

t.test('the packages and their pages name the repository that the root names', async t => {
  t.match(said(fileURLToPath(root)), /^https:\/\/github\.com\/[\w-]+\/[\w.-]+$/)
})

t.test('the script writes another address everywhere', async t => {
  const folder = copied(t)
  const address = 'https://github.com/somebody/limiter.js'
  t.equal(said(folder, address), address)
  for (const file of FILES) t.match(readFileSync(join(folder, file), 'utf8'), `"git+${address}.git"`)
  for (const file of PAGES) t.notMatch(readFileSync(join(folder, file), 'utf8'), 'github.com/ml-api-rate-limiter')
  t.equal(said(folder), address)
})

t.test('an address that differs is named, and one that leads nowhere is refused', async t => {
  const folder = copied(t)
  const page = join(folder, 'plugin/README.md')
  writeFileSync(page, readFileSync(page, 'utf8').replace('github.com/ml-api', 'github.com/other-api'))
  t.match(said(folder), /^repository: the addresses differ\n {2}plugin\/README\.md: .*other-api.* does not lead to /)
  for (const wrong of ['limiter', 'https://example.org/a/b', 'https://github.com/a/b.git', 'https://github.com/a'])
    t.match(said(folder, wrong), /^repository: '.*' is no repository; it takes an address such as /)
})
