/** The workflows of .github, and the check that a release begins with. */
import { spawnSync } from 'node:child_process'
import { cpSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { parse } from 'yaml'
import { childEnv } from '../support/child-env.js'

const root = fileURLToPath(new URL('../../', import.meta.url))
const read = (file: string) => readFileSync(join(root, file), 'utf8')

interface Workflow {
  readonly on: Readonly<Record<string, unknown>>
  readonly permissions: unknown
  readonly jobs: Readonly<
    Record<string, { readonly 'timeout-minutes'?: number; readonly steps: { uses?: string; run?: string }[] }>
  >
}

const workflows = readdirSync(join(root, '.github/workflows')).map(file => {
  const text = read(`.github/workflows/${file}`)
  return { file, text, workflow: parse(text) as Workflow }
})

t.test('every action is pinned by its hash, with its version beside', async t => {
  for (const { file, text } of workflows) {
    for (const [, action] of text.matchAll(/uses: (.*)/g)) {
      t.match(action, /^[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$/, `${file}: ${action}`)
    }
  }
})

t.test(
  'a workflow may read and no more, unless a job says what it writes; none runs the code of strangers with rights',
  async t => {
    for (const { file, workflow } of workflows) {
      t.strictSame(workflow.permissions, { contents: 'read' }, file)
      t.notOk('pull_request_target' in workflow.on || 'workflow_run' in workflow.on, file)
      for (const [name, job] of Object.entries(workflow.jobs)) {
        t.ok(job['timeout-minutes'], `${file}: ${name} ends`)
        for (const { run = '' } of job.steps) t.notMatch(run, '${{', `${file}: no expression becomes part of a command`)
      }
    }
  },
)

t.test('what the workflows run is there', async t => {
  const { scripts } = JSON.parse(read('package.json'))
  for (const { file, text } of workflows) {
    for (const [, script] of text.matchAll(/npm run ([\w:]+)/g)) t.ok(script && script in scripts, `${file}: ${script}`)
    for (const [, path] of text.matchAll(/(?:node|bash) ((?:scripts|\.ci)\/\S+)/g)) t.ok(read(path as string), file)
  }
})

t.test('released images have the base of the Dockerfile, by its digest', async t => {
  const [, base] = /^ARG NODE_IMAGE=(\S+)$/m.exec(read('Dockerfile')) ?? []
  const [, pinned = ''] = /^FROM (\S+)$/m.exec(read('.github/base-image/Dockerfile')) ?? []
  t.match(pinned, /@sha256:[0-9a-f]{64}$/)
  t.equal(pinned.split('@')[0], base)
})

/** Pages that link to the repository. */
const PAGES = ['plugin/README.md', 'plugin/STABILITY.md', 'service/README.md']

/** A tree with the files that the check reads, in these versions. */
function treeOf(t: Test, versions: Readonly<Record<string, string>>, changelog: string): string {
  const tree = t.testdir()
  for (const folder of ['scripts', 'plugin', 'service']) mkdirSync(join(tree, folder))
  for (const file of ['scripts/release-check.mjs', 'scripts/repository.mjs', ...PAGES])
    cpSync(join(root, file), join(tree, file))
  for (const file of ['package.json', 'package-lock.json', 'plugin/package.json', 'service/package.json']) {
    const { repository, homepage, bugs } = JSON.parse(read(file))
    const dependencies = { 'ml-api-rate-limiter': '^1.2.3' }
    const manifest = { version: versions[file] ?? '1.2.3', dependencies, repository, homepage, bugs }
    writeFileSync(join(tree, file), JSON.stringify(manifest))
  }
  writeFileSync(join(tree, 'CHANGELOG.md'), changelog)
  return tree
}

const check = (tree: string, tag: string, env: Record<string, string> = {}) =>
  spawnSync(process.execPath, [join(tree, 'scripts/release-check.mjs'), tag], {
    encoding: 'utf8',
    env: childEnv(env),
  })

const CHANGELOG =
  '# Changelog\n\n## [Unreleased]\n\n## [1.2.3] - 2026-01-02\n\n### Added\n\n- A thing.\n\n## [1.2.2] - 2026-01-01\n'

t.test('the check of a release prints what the changelog says of it', async t => {
  const { status, stdout } = check(treeOf(t, {}, CHANGELOG), 'v1.2.3')
  t.equal(status, 0)
  t.equal(stdout, '### Added\n\n- A thing.\n')
})

t.test('the check of a release names everything that has another version', async t => {
  const { status, stderr } = check(treeOf(t, { 'plugin/package.json': '1.2.2' }, '# Changelog\n'), 'v1.2.3')
  t.equal(status, 1)
  t.match(stderr, 'plugin/package.json has version 1.2.2')
  t.match(stderr, 'CHANGELOG.md has no section [1.2.3]')
  t.match(check(treeOf(t, {}, CHANGELOG), 'main').stderr, "'main' is no release tag")
  const { stderr: other } = check(treeOf(t, {}, CHANGELOG), 'v1.2.3', { GITHUB_REPOSITORY: 'somebody/else' })
  t.match(other, 'and this runs in somebody/else: node scripts/repository.mjs sets it')
})
