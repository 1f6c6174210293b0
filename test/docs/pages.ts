/** Pages whose JavaScript and TypeScript blocks are run, and whose links are followed. A new page joins by being listed. */
export const PAGES: readonly string[] = [
  'README.md',
  'docs/options.md',
  'docs/migration.md',
  'docs/headers-and-errors.md',
  'docs/how-it-works.md',
  'docs/faults.md',
  'docs/limits.md',
  'examples/README.md',
  'plugin/README.md',
]

/** Pages whose shell blocks are run, from top to bottom. Their links are followed too. */
export const SHELL_PAGES: readonly string[] = [
  'README.md',
  'plugin/README.md',
  'docs/limits.md',
  'docs/http-api.md',
  'docs/operations.md',
  'docs/performance.md',
  'docs/tutorial.md',
]
