/**
 * Whether this tree is the release that a tag names: `node scripts/release-check.mjs v1.2.3`. Every package has its version,
 * CHANGELOG.md a section, which is printed, and all name the repository that the workflow runs in. Exits with 1, and says what is not so, where it is not.
 */
import { readFileSync } from 'node:fs'
import { repositoryOf, repositoryProblems } from './repository.mjs'

const [tag = ''] = process.argv.slice(2)
const version = /^v(\d+\.\d+\.\d+(?:-[\w.]+)?)$/.exec(tag)?.[1]
if (version === undefined) {
  process.stderr.write(`release-check: '${tag}' is no release tag; it takes one such as v1.2.3\n`)
  process.exit(1)
}

const read = file => readFileSync(new URL(`../${file}`, import.meta.url), 'utf8')
const problems = []

for (const file of ['package.json', 'plugin/package.json', 'service/package.json', 'package-lock.json']) {
  const found = JSON.parse(read(file)).version
  if (found !== version) problems.push(`${file} has version ${found}`)
}
const needed = JSON.parse(read('service/package.json')).dependencies['ml-api-rate-limiter']
if (needed.replace(/^[\^~]/, '') !== version)
  problems.push(`service/package.json depends on ml-api-rate-limiter ${needed}`)

const sections = read('CHANGELOG.md').split(/^(?=## \[)/m)
const section = sections.find(text => text.startsWith(`## [${version}]`))
if (section === undefined) problems.push(`CHANGELOG.md has no section [${version}]`)
else if (!/^## \[[^\]]+\] - \d{4}-\d\d-\d\d$/m.test(section)) problems.push(`the section [${version}] has no date`)

const root = new URL('../', import.meta.url)
problems.push(...repositoryProblems(root))
const { GITHUB_REPOSITORY: here } = process.env
if (here !== undefined && repositoryOf(root) !== `https://github.com/${here}`)
  problems.push(
    `package.json names ${repositoryOf(root)}, and this runs in ${here}: node scripts/repository.mjs sets it`,
  )

if (problems.length > 0) {
  process.stderr.write(`release-check: this is not ${version}\n${problems.map(problem => `  ${problem}\n`).join('')}`)
  process.exit(1)
}
process.stdout.write(section.slice(section.indexOf('\n')).trim().concat('\n'))
