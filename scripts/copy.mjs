// Copies into a package what stands elsewhere in the repository. What is not there is left out: an image is built from less.
// Usage: node copy.mjs FROM TO [FROM TO ...]
import { cpSync, existsSync } from 'node:fs'

const paths = process.argv.slice(2)
for (let index = 0; index < paths.length; index += 2) {
  const [from, to] = paths.slice(index)
  if (existsSync(from)) cpSync(from, to, { recursive: true })
}
