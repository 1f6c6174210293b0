/**
 * The address of the repository stands in package.json at the root, and the packages and their READMEs repeat it.
 *
 *   node scripts/repository.mjs                                  # exits with 1 and says where it is another one
 *   node scripts/repository.mjs https://github.com/OWNER/NAME    # writes it everywhere
 */
import { readFileSync, writeFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'

const PACKAGES = ['plugin/package.json', 'service/package.json']
/** What npm shows: links in it are whole addresses. */
const PAGES = ['plugin/README.md', 'plugin/STABILITY.md', 'service/README.md']

const at = (file, folder) => new URL(file, folder)
const read = (file, folder) => readFileSync(at(file, folder), 'utf8')

/** The address that the root names, as https://github.com/OWNER/NAME. */
export function repositoryOf(folder) {
  return JSON.parse(read('package.json', folder))
    .repository.url.replace(/^git\+/, '')
    .replace(/\.git$/, '')
}

/** What names another address, in words. */
export function repositoryProblems(folder) {
  const address = repositoryOf(folder)
  const problems = []
  for (const file of PACKAGES) {
    const { repository, homepage, bugs } = JSON.parse(read(file, folder))
    const expected = {
      'repository.url': [repository?.url, `git+${address}.git`],
      homepage: [homepage, `${address}#readme`],
      'bugs.url': [bugs?.url, `${address}/issues`],
    }
    for (const [name, [found, wanted]] of Object.entries(expected))
      if (found !== wanted) problems.push(`${file}: ${name} is ${found}, not ${wanted}`)
  }
  for (const file of PAGES)
    for (const [link] of read(file, folder).matchAll(/https:\/\/github\.com\/[^\s)]*\/blob\/[^\s)]*/g))
      if (!link.startsWith(`${address}/blob/main/`)) problems.push(`${file}: ${link} does not lead to ${address}`)
  return problems
}

/** Writes another address everywhere. Throws for one that is no repository of GitHub, whose workflows publish. */
export function setRepository(address, folder) {
  if (!/^https:\/\/github\.com\/[\w-]+\/(?!.*\.git$)[\w.-]+$/.test(address))
    throw new Error(`'${address}' is no repository; it takes an address such as https://github.com/OWNER/NAME`)
  const before = repositoryOf(folder)
  for (const file of ['package.json', ...PACKAGES, ...PAGES]) {
    const text = read(file, folder)
    writeFileSync(at(file, folder), text.replaceAll(before, address))
  }
}

function main(address) {
  const root = new URL('../', import.meta.url)
  if (address !== undefined) setRepository(address, root)
  const problems = repositoryProblems(root)
  if (problems.length > 0)
    throw new Error(`the addresses differ\n${problems.map(problem => `  ${problem}`).join('\n')}`)
  process.stdout.write(`${repositoryOf(root)}\n`)
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  try {
    main(process.argv[2])
  } catch (error) {
    process.stderr.write(`repository: ${error.message}\n`)
    process.exitCode = 1
  }
}
