/** Pages whose code blocks are run and whose links are followed. A new page joins by being listed. */
export const PAGES: readonly string[] = [
  'docs/options.md',
  'docs/migration.md',
  'docs/headers-and-errors.md',
  'docs/how-it-works.md',
  'docs/limits.md',
  'examples/README.md',
  'plugin/README.md',
]
