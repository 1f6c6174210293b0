import { readFileSync } from 'node:fs'

/** The repository's root, as a URL that ends with a slash. */
export const root = new URL('../../', import.meta.url)

export function readPage(page: string): string {
  return readFileSync(new URL(page, root), 'utf8')
}

export interface CodeBlock {
  /** What stands behind the fence: `js`, `ts`, `sh`, … */
  readonly language: string
  /** What stands behind the language, which no reader of the rendered page sees. */
  readonly note: string
  readonly code: string
  /** Line of the opening fence, from 1. */
  readonly line: number
}

/** The fenced blocks of a page. */
export function codeBlocks(markdown: string): CodeBlock[] {
  const blocks: CodeBlock[] = []
  let open: { language: string; note: string; line: number; code: string[] } | undefined
  for (const [index, line] of markdown.split('\n').entries()) {
    const fence = /^```(\S*) ?(.*)$/.exec(line)
    if (fence === null) open?.code.push(line)
    else if (open === undefined) open = { language: fence[1] ?? '', note: fence[2] ?? '', line: index + 1, code: [] }
    else {
      blocks.push({ ...open, code: `${open.code.join('\n')}\n` })
      open = undefined
    }
  }
  return blocks
}

export interface Row {
  /** The nearest heading above the table. */
  readonly heading: string
  /** Cells by the title of their column. */
  readonly cells: Readonly<Record<string, string>>
}

/** Every row of every table of a page. A `\|` inside a cell is a `|`. */
export function tableRows(markdown: string): Row[] {
  const rows: Row[] = []
  let heading = ''
  let titles: string[] | undefined
  let fenced = false
  for (const line of markdown.split('\n')) {
    if (line.startsWith('```')) fenced = !fenced
    if (fenced) continue
    const title = /^#+ (.*)/.exec(line)
    if (title !== null) heading = title[1] as string
    if (!line.startsWith('|')) {
      titles = undefined
      continue
    }
    const cells = line
      .split(/(?<!\\)\|/)
      .slice(1, -1)
      .map(cell => cell.trim().replaceAll('\\|', '|'))
    if (titles === undefined) titles = cells
    else if (!cells.every(cell => /^:?-+:?$/.test(cell))) {
      rows.push({ heading, cells: Object.fromEntries(titles.map((name, index) => [name, cells[index] ?? ''])) })
    }
  }
  return rows
}

/** What a cell holds between backticks, if that is all it holds. */
export function codeOf(cell: string | undefined): string | undefined {
  return /^`([^`]+)`$/.exec(cell ?? '')?.[1]
}
