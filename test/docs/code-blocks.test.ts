/**
 * Every JavaScript and TypeScript block of the listed pages is a whole module, and runs.
 *
 * - Those of a page run one after the other in one process, see run-blocks.mjs. REDIS_URL says where Redis is; any port
 *   can be listened on.
 * - `console.log(…) // text`: the lines it prints are, in order, the texts of these comments.
 * - TypeScript blocks are type-checked besides, under the settings of the workspace.
 * - What a `diff` block adds runs too, in an app: it has to be what this plugin takes.
 * - `sh` and what follows it: shell-blocks.ts. `http` and `json` of the limiter: headers.test.ts.
 */
import { spawn } from 'node:child_process'
import { randomUUID } from 'node:crypto'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import ts from 'typescript'
import { builtPackage, toJavaScript } from './built-package.js'
import { type CodeBlock, codeBlocks, readPage, root } from './markdown.js'
import { PAGES } from './pages.js'

const RUNNER = fileURLToPath(new URL('run-blocks.mjs', import.meta.url))
const LANGUAGES: Readonly<Record<string, 'js' | 'ts'>> = { js: 'js', javascript: 'js', ts: 'ts', typescript: 'ts' }

interface Block extends CodeBlock {
  readonly page: string
  readonly typed: boolean
  /** Relative to the folder that holds all. */
  readonly file: string
}

const blocks = PAGES.flatMap(page =>
  codeBlocks(readPage(page))
    .map(block => (block.language === 'diff' ? { ...block, language: 'js', code: added(block.code) } : block))
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
    const own = blocks.filter(block => block.page === page)
    const { code, printed, errors } = await run(own.map(fileOf))
    t.equal(code, 0, `they end well${code === 0 ? '' : `\n${errors}`}`)
    for (const block of own) {
      const lines = printed.get(fileOf(block))
      t.ok(lines, `${page}:${block.line} is reached`)
      const expected = expectedOutput(block.code)
      if (expected.length > 0) t.strictSame(lines, expected, `${page}:${block.line} prints what its comments say`)
    }
  })
}

t.test('the TypeScript blocks have no type errors', async t => {
  t.strictSame(typeErrors(blocks.filter(block => block.typed)), [])
})

/** The lines that a change adds, as a module: with an app, a Redis and, unless they import it, the plugin. */
function added(diff: string): string {
  const lines = diff.split('\n').flatMap(line => (line.startsWith('+') ? [line.slice(1)] : []))
  const importsIt = lines.some(line => /^import |require\(/.test(line))
  return `
    import { createRequire } from 'node:module'
    import Fastify from 'fastify'
    import { Redis } from 'ioredis'
    ${importsIt ? '' : "import rateLimit from 'ml-api-rate-limiter'"}
    ${lines.filter(line => line.startsWith('import ')).join('\n')}
    const require = createRequire(import.meta.url)
    const redis = new Redis(process.env.REDIS_URL)
    const app = Fastify()
    ${lines.filter(line => !line.startsWith('import ')).join('\n')}
    await app.ready()
    redis.disconnect()`
}

/** What `console.log(…) // text` says will be printed. */
function expectedOutput(code: string): string[] {
  return [...code.matchAll(/^\s*console\.log\(.*\) \/\/ (.*)$/gm)].map(match => match[1] as string)
}

function fileOf(block: Block): string {
  return join(folder, `${block.file}.mjs`)
}

/** What each of the files printed, as far as they were reached. */
function run(
  files: readonly string[],
): Promise<{ code: number | null; printed: Map<string, string[]>; errors: string }> {
  return new Promise((resolve, reject) => {
    const env = { ...process.env, NODE_OPTIONS: '' }
    const child = spawn(process.execPath, [RUNNER, ...files], {
      stdio: ['ignore', 'pipe', 'pipe'],
      env,
      timeout: 90_000,
    })
    let output = ''
    let errors = ''
    child.stdout.on('data', data => (output += data))
    child.stderr.on('data', data => (errors += data))
    child.on('error', reject)
    child.on('close', code => {
      const parts = output.split('\0').slice(1)
      const printed = new Map(
        parts.map(part => {
          const [file, ...lines] = part.split('\n').slice(0, -1)
          return [file as string, lines]
        }),
      )
      resolve({ code, printed, errors })
    })
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
  return ts.getPreEmitDiagnostics(ts.createProgram([...sources.keys()], options, host)).flatMap(problem => {
    const { file, start, messageText } = problem
    const block = sources.get(file?.fileName ?? '')
    if (block === undefined) return [] // not the documentation's: the workspace has a type check of its own
    const line = block.line + 1 + (file?.getLineAndCharacterOfPosition(start ?? 0).line ?? 0)
    return [`${block.page}:${line} ${ts.flattenDiagnosticMessageText(messageText, '\n')}`]
  })
}
