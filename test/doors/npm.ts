/** A clone installs with the npm of each Node.js line that is supported: each judges peers and the lock by its own rules. */
import { execFileSync } from 'node:child_process'
import { cpSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { dirname, join } from 'node:path'
import t from 'tap'
import { offline, run } from './support.js'

/** Node.js 20 and 22 come with the first one, 24 with the second. */
const LINES = ['10', '11']
/** What `npm ci` reads, as the image copies it. */
const READ = [
  'package.json',
  'package-lock.json',
  '.npmrc',
  'plugin/package.json',
  'service/package.json',
  'service/bin',
]

const skip = await offline()
for (const line of LINES) {
  t.test(`npm ${line} installs what the lock names`, { skip: skip ?? false }, async t => {
    const folder = mkdtempSync(join(tmpdir(), 'doors-npm-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const own = join(folder, 'npm')
    const clone = join(folder, 'clone')
    mkdirSync(own)
    for (const path of READ) {
      mkdirSync(dirname(join(clone, path)), { recursive: true })
      cpSync(path, join(clone, path), { recursive: true })
    }
    execFileSync('npm', ['install', '--prefix', own, '--no-save', '--no-audit', '--no-fund', `npm@${line}`])
    const npm = join(own, 'node_modules/npm/bin/npm-cli.js')
    const { code, output } = await run(process.execPath, [npm, 'ci', '--dry-run', '--no-audit', '--no-fund'], clone)
    t.equal(code, 0, code === 0 ? 'it can be installed' : output)
  })
}
