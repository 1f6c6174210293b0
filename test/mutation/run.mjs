/**
 * Mutation testing: `npm run mutate` of Lua and TypeScript, `npm run mutate -- lua …` or `npm run mutate -- typescript …`
 * of one of them, with its options. `npm run mutate -- --only FILE` tries one file, in the language that its ending says.
 */
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root } from './quick-tests.mjs'

const ENDINGS = { lua: '.lua', typescript: '.ts' }
const languages = Object.keys(ENDINGS)

const [first, ...rest] = process.argv.slice(2)
const isNamed = languages.includes(first)
const args = isNamed ? rest : process.argv.slice(2)
const ofFile = languages.filter(language => args.some(arg => arg.endsWith(ENDINGS[language])))
for (const language of isNamed ? [first] : ofFile.length > 0 ? ofFile : languages) {
  process.stdout.write(`\n== ${language}\n`)
  const program = join(root, 'test/mutation', `${language}.mjs`)
  const { status } = spawnSync(process.execPath, [program, ...args], { cwd: root, stdio: 'inherit' })
  if (status !== 0) process.exitCode = 1
}
