/**
 * Every JavaScript and TypeScript block of the listed pages is a whole module, and runs.
 *
 * - Each runs in a process of its own, see run-block.mjs. REDIS_URL says where Redis is; any port can be listened on.
 * - `console.log(…) // text`: the lines it prints are, in order, the texts of these comments.
 * - TypeScript blocks are type-checked besides, under the settings of the workspace.
 * - What is not to be run is no `js` or `ts` block: `sh`, `diff`, `json`, `http`, `text`.
 */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { builtPackage, toJavaScript } from './built-package.js'
import { type CodeBlock, codeBlocks, readPage, root } from './markdown.js'

/** Pages that are run. A new page joins by being listed. */
const PAGES = [
  'docs/options.md',
  'docs/migration.md',
  'docs/headers-and-errors.md',
  'docs/how-it-works.md',
  'plugin/README.md',
]

const RUNNER = fileURLToPath(new URL('run-block.mjs', import.meta.url))
const LANGUAGES: Readonly<Record<string, 'js' | 'ts'>> = { js: 'js', javascript: 'js', ts: 'ts', typescript: 'ts' }

interface Block extends CodeBlock {
  readonly page: string
  readonly typed: boolean
  /** Relative to the folder that holds all. */
  readonly file: string
}

const blocks = PAGES.flatMap(page =>
  codeBlocks(readPage(page))
    .filter(({ language }) => language in LANGUAGES)
    .map((block): Block => {
      const typed = LANGUAGES[block.language] === 'ts'
      return { ...block, page, typed, file: `${page.replaceAll('/', '-')}-line-${block.line}` }
    }),
)
const folder = t.testdir({
  // A package of its own, so that no two runs count together in one Redis.
  'package.json': JSON.stringify({ name: `docs-${randomUUID()}`, type: 'module' }),
  node_modules: builtPackage(),
  ...Object.fromEntries(
    blocks.map(({ file, typed, code }) => [`${file}.mjs`, typed ? toJavaScript(code) : code] as const),
  ),
})

for (const page of PAGES) {
  t.test(`the code blocks of ${page} run`, async t => {
    for (const block of blocks.filter(block => block.page === page)) {
      const { output, errors, code } = await run(join(folder, `${block.file}.mjs`))
      t.equal(code, 0, `${page}:${block.line} runs${code === 0 ? '' : `\n${errors}`}`)
      const expected = expectedOutput(block.code)
      if (expected.length > 0) t.strictSame(output, expected, `${page}:${block.line} prints what its comments say`)
    }
  })
}

t.test('the TypeScript blocks have no type errors', async t => {
  t.strictSame(typeErrors(blocks.filter(block => block.typed)), [])
})

/** What `console.log(…) // text` says will be printed. */
function expectedOutput(code: string): string[] {
  return [...code.matchAll(/^\s*console\.log\(.*\) \/\/ (.*)$/gm)].map(match => match[1] as string)
}

function run(file: string): Promise<{ output: string[]; errors: string; code: number | null }> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, NODE_OPTIONS: '' }
    const child = spawn(process.execPath, [RUNNER, file], { stdio: ['ignore', 'pipe', 'pipe'], env, timeout: 60_000 })
    let output = ''
    let errors = ''
    child.stdout.on('data', data => (output += data))
    child.stderr.on('data', data => (errors += data))
    child.on('error', reject)
    child.on('close', code => resolve({ output: output.split('\n').slice(0, -1), errors, code }))
  })
}

/** The blocks as files of the workspace that exist in memory only. */
function typeErrors(typed: readonly Block[]): string[] {
  const { config } = ts.readConfigFile(fileURLToPath(new URL('tsconfig.json', root)), ts.sys.readFile)
  const { options } = ts.parseJsonConfigFileContent(config, ts.sys, fileURLToPath(root))
  const sources = new Map(typed.map(block => [fileURLToPath(new URL(`docs/${block.file}.mts`, root)), block]))
  const host = ts.createCompilerHost(options)
  const { readFile, fileExists } = host
  host.readFile = name => sources.get(name)?.code ?? readFile(name)
  host.fileExists = name => sources.has(name) || fileExists(name)
  return ts.getPreEmitDiagnostics(ts.createProgram([...sources.keys()], options, host)).map(problem => {
    const { file, start, messageText } = problem
    const block = sources.get(file?.fileName ?? '')
    const line = (block?.line ?? 0) + 1 + (file?.getLineAndCharacterOfPosition(start ?? 0).line ?? 0)
    return `${block?.page ?? file?.fileName}:${line} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`
  })
}
