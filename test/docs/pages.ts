import { readdirSync } from 'node:fs'
import { root } from './markdown.js'

/** All that there is to read: JavaScript and TypeScript blocks are run, and links are followed. */
export const PAGES: readonly string[] = [
  ...['README.md', 'CONTRIBUTING.md', 'CHANGELOG.md', 'SECURITY.md', 'plugin/STABILITY.md'],
  ...['bench', 'examples', 'models', 'models/train', 'plugin', 'service'].map(folder => `${folder}/README.md`),
  ...readdirSync(new URL('docs/', root))
    .filter(name => name.endsWith('.md'))
    .map(name => `docs/${name}`),
]

/** Pages whose shell blocks are followed, from top to bottom, in three parts that are tested beside each other. */
export const SHELL_PAGES = {
  begin: ['README.md', 'plugin/README.md', 'docs/tutorial.md'],
  lookUp: ['docs/http-api.md', 'docs/limits.md', 'docs/command-line.md', 'docs/models.md'],
  run: ['docs/keys.md', 'docs/operations.md', 'docs/performance.md', 'docs/traces.md'],
} as const
