import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { identifyApp, programName } from '../../plugin/src/app-identity.js'

t.test('a program is its package and its script, as a path inside the package', async t => {
  const root = t.testdir({
    app: {
      'package.json': JSON.stringify({ name: 'shop' }),
      bin: { 'serve.js': '' },
      node_modules: { runner: { 'package.json': '{}', 'cli.js': '' } },
    },
    nameless: { 'package.json': '{}', 'a.js': '' },
    broken: { 'package.json': '{', 'a.js': '' },
  })
  t.equal(programName(join(root, 'app/bin/serve.js'), '/'), 'shop/bin/serve.js')
  t.equal(
    programName(join(root, 'app/node_modules/runner/cli.js'), join(root, 'app/bin')),
    'shop/',
    'a runner is not the app',
  )
  t.equal(programName(join(root, 'nameless/a.js'), '/'), '/a.js')
  t.equal(programName(join(root, 'broken/a.js'), '/'), '/a.js')
  t.equal(programName(join(root, 'missing.js'), join(root, 'app')), 'shop/')
  t.equal(programName(undefined, '/'), '/', 'neither script nor package')
  const outside = mkdtempSync(join(tmpdir(), 'no-package-'))
  t.teardown(() => rmSync(outside, { recursive: true }))
  writeFileSync(join(outside, 'a.js'), '')
  t.equal(programName(join(outside, 'a.js'), '/'), '/a.js', 'a script without a package')
})

t.test('several apps of one process are told apart, and a place is free when one closes', async t => {
  const [one, two] = [identifyApp(), identifyApp()]
  t.equal(two.name, `${one.name}#1`)
  one.release()
  t.equal(identifyApp().name, one.name)
})
