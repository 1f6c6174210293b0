// Writes the tables of docs/options.md from the code. Usage: npm run docs
import { readFileSync, writeFileSync } from 'node:fs'
import * as tables from '../plugin/dist/options/table.js'
import { withOptionTables } from './option-tables.mjs'

const PAGE = new URL('../docs/options.md', import.meta.url)
const SOURCE = new URL('../plugin/src/options/table.ts', import.meta.url)
writeFileSync(PAGE, withOptionTables(readFileSync(PAGE, 'utf8'), tables, readFileSync(SOURCE, 'utf8')))
