// Replaces the built module that reads the Lua files by one that holds their texts: bundles then need no files.
// Usage: node inline-lua.mjs SOURCE_FOLDER BUILT_MODULE
import { readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { basename, join } from 'node:path'

const [source, built] = process.argv.slice(2)
const exports = readdirSync(source)
  .filter(file => file.endsWith('.lua'))
  .map(file => {
    const text = readFileSync(join(source, file), 'utf8')
    return `export const ${basename(file, '.lua')} = ${JSON.stringify(text)};\n`
  })
writeFileSync(built, exports.join(''))
