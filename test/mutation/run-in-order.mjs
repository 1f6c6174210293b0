// Imports compiled test files one after the other.
import './generated.mjs'
import { pathToFileURL } from 'node:url'

for (const file of process.argv.slice(2)) await import(pathToFileURL(file).href)
