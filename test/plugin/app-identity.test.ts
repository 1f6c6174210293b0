import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import t from 'tap'
import { programName } from '../../plugin/src/app-identity.js'

t.test('a program is its package and its script, as a path inside the package', async t => {
  const root = realpathSync(
    t.testdir({
      app: {
        'package.json': JSON.stringify({ name: 'shop', main: 'bin/serve.js' }),
        bin: { 'serve.js': '' },
        dist: { 'package.json': '{ "type": "commonjs" }', 'serve.js': '' },
        broken: { 'package.json': '{', 'a.js': '' },
        node_modules: { runner: { 'package.json': '{}', 'cli.js': '' } },
      },
    }),
  )
  t.equal(programName(join(root, 'app/bin/serve.js'), '/'), 'shop/bin/serve.js')
  t.equal(programName(join(root, 'app/bin/serve'), '/'), 'shop/bin/serve.js', 'as `node bin/serve` starts it')
  t.equal(programName(join(root, 'app'), '/'), 'shop/bin/serve.js', 'as `node .` starts it')
  t.equal(programName(join(root, 'app/dist/serve.js'), '/'), 'shop/dist/serve.js', 'a package.json without a name')
  t.equal(programName(join(root, 'app/broken/a.js'), '/'), 'shop/broken/a.js', 'a package.json that is no JSON')
  t.equal(
    programName(join(root, 'app/node_modules/runner/cli.js'), join(root, 'app/bin')),
    'shop/',
    'a runner is not the app',
  )
  t.equal(programName(join(root, 'missing.js'), join(root, 'app')), 'shop/')
})

t.test('programs without the name of a package are told apart by where they are', async t => {
  const folders = ['one', 'two'].map(name => realpathSync(mkdtempSync(join(tmpdir(), `no-package-${name}-`))))
  t.teardown(() => {
    for (const folder of folders) rmSync(folder, { recursive: true })
  })
  for (const folder of folders) {
    const script = join(folder, 'server.js')
    writeFileSync(script, '')
    t.equal(programName(script, '/'), script)
    t.equal(programName(undefined, folder), folder, 'no script')
    writeFileSync(join(folder, 'package.json'), '{ "name": "" }')
    t.equal(programName(script, '/'), script, 'no name')
  }
})
