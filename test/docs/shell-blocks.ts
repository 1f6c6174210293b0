/**
 * The shell blocks of the pages, followed to the letter: from top to bottom, in one terminal, in a copy of this
 * repository. What stands behind the language of a block, which the rendered page does not show, says what it is:
 *
 * - `sh`: commands that must succeed, on any one port of this machine instead of 3000, and with the Redis of the tests.
 *   A block in the next paragraph or directly below is what they print: `text`, `json` (however it is laid out) or
 *   `http` (lines that are among status and headers). See said.ts for what may differ.
 * - `sh service`: a service in another terminal. It runs until the next one with its port, and a `text` below is in its
 *   log.
 * - `sh fails`: commands of which the last one fails.
 * - `json NAME`: a file that the reader makes.
 *
 * What takes a network, Docker or minutes is played by stand-ins.sh. `npm start` does not build again.
 */
import { randomUUID } from 'node:crypto'
import { existsSync, mkdirSync, writeFileSync } from 'node:fs'
import { dirname, join } from 'node:path'
import t, { type Test } from 'tap'
import { type CodeBlock, codeBlocks, readPage, root } from './markdown.js'
import { alike, answered, logged, printed } from './said.js'
import { cloneOf, Desk } from './shell.js'

if (!existsSync(new URL('service/dist/server.js', root))) throw new Error('there is no build; npm run build makes one')

/** Tests these pages, one after the other. */
export function followPages(pages: readonly string[]): void {
  for (const page of pages) t.test(`the shell blocks of ${page} do what the page says`, t => follow(t, page))
}

async function follow(t: Test, page: string): Promise<void> {
  const blocks = codeBlocks(readPage(page))
  const clone = cloneOf(t)
  const clones = blocks.some(({ code }) => code.includes('git clone'))
  const desk = new Desk(t, clones ? dirname(clone) : clone, {
    REDIS_NAMESPACE: `docs:${randomUUID()}:`,
    STORE_TIMEOUT_MS: '5000',
    STOP_DELAY_MS: '0',
    INFERENCE_THREADS: '1',
  })
  let told: { readonly block: CodeBlock; readonly text: string } | undefined
  for (const block of blocks) {
    const { language, note, code, line } = block
    const where = `${page}:${line}`
    if (language === 'json' && note !== '') {
      mkdirSync(dirname(join(clone, note)), { recursive: true })
      writeFileSync(join(clone, note), code)
    } else if (language !== 'sh') {
      if (told !== undefined) isSaid(told, block, where)
      told = undefined
    } else if (note === 'service') {
      await desk.serve(code)
      told = { block, text: desk.log(/\bPORT=(\d+)/.exec(code)?.[1]) }
    } else {
      const { status, output } = await desk.run(code)
      t.equal(status === 0, note !== 'fails', `${where} ends with ${status}\n${output}`)
      told = { block, text: output }
    }
  }

  function isSaid({ block, text }: { block: CodeBlock; text: string }, { language, code }: CodeBlock, where: string) {
    const said =
      language === 'json'
        ? alike(parsed(text), JSON.parse(code))
        : language === 'http'
          ? answered(text, code)
          : language === 'text'
            ? (block.note === 'service' ? logged : printed)(text, code)
            : undefined
    if (said !== undefined) t.ok(said, `${where} is what was said; it was\n${text}`)
  }
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch {
    return undefined
  }
}
