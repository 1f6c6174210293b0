// Copies the files with the given endings from one folder to another, keeping the sub-folders.
// Usage: node copy.mjs FROM TO .ending [.ending ...]
import { cpSync, statSync } from 'node:fs'
import { extname } from 'node:path'

const [from, to, ...endings] = process.argv.slice(2)
cpSync(from, to, {
  recursive: true,
  filter: path => statSync(path).isDirectory() || endings.includes(extname(path)),
})
