/** The map of the service's rooms in CONTRIBUTING.md: the linter and the code say the same. */
import { execFileSync } from 'node:child_process'
import { copyFileSync, existsSync, mkdirSync, readdirSync, writeFileSync } from 'node:fs'
import { dirname, join, relative } from 'node:path'
import { fileURLToPath } from 'node:url'
import t from 'tap'
import { readPage, root, tableRows } from './markdown.js'

const rows = tableRows(readPage('CONTRIBUTING.md'))

/** What a cell names: `` `a` `b/{c,d}` `` are a, b/c and b/d. */
const namesIn = (cell = ''): string[] =>
  [...cell.matchAll(/`([^`]+)`/g)].flatMap(([, name = '']) => {
    const [, before = '', list] = /^(.*)\{(.+)\}$/.exec(name) ?? []
    return list === undefined ? [name] : list.split(',').map(each => before + each)
  })

interface Room {
  readonly name: string
  readonly mayImport: readonly string[]
  /** A file of it, below `service/src`. */
  readonly file: string
}

/** A file in the room: the room itself, its index, or one that is not there yet. */
function fileOf(name: string): string {
  if (name === 'inference') return 'inference/index.ts'
  return existsSync(new URL(`service/src/${name}.ts`, root)) ? `${name}.ts` : `${name}/planted.ts`
}

const rooms = rows
  .filter(({ heading }) => heading === 'The rooms of the service')
  .map(({ cells }): Room => {
    const [name = ''] = namesIn(cells.Room)
    return { name, mayImport: namesIn(cells['May import']), file: fileOf(name) }
  })

t.test('every folder of the service has a room, apart from the command line', t => {
  const folders = ['service/src/', 'service/src/inference/'].flatMap(folder =>
    readdirSync(new URL(folder, root), { withFileTypes: true })
      .filter(entry => entry.isDirectory())
      .map(({ name }) => `${folder}${name}`.replace('service/src/', '')),
  )
  const named = rooms.map(({ name }) => name)
  t.strictSame(
    folders.filter(folder => folder !== 'cli' && !named.includes(folder)),
    [],
  )
  t.end()
})

t.test('an import against the directions is reported, and one along them is not', t => {
  const folder = t.testdir()
  for (const file of ['biome.json', 'biome.rooms.jsonc']) copyFileSync(new URL(file, root), join(folder, file))
  for (const { name, file } of rooms) {
    const path = join(folder, 'service/src', file)
    mkdirSync(dirname(path), { recursive: true })
    // One line for each room, so that the number of a line tells which is imported.
    const lines = rooms.map((other, index) => {
      const specifier = relative(dirname(file), other.file).replace(/\.ts$/, '.js')
      const from = specifier.startsWith('.') ? specifier : `./${specifier}`
      return other.name === name ? '' : `import type { Planted as P${index} } from '${from}'`
    })
    writeFileSync(path, lines.join('\n'))
  }
  const biome = fileURLToPath(new URL('node_modules/@biomejs/biome/bin/biome', root))
  const options = [
    '--only=style/noRestrictedImports',
    '--vcs-enabled=false',
    '--max-diagnostics=none',
    '--reporter=github',
  ]
  let output = ''
  try {
    execFileSync(process.execPath, [biome, 'lint', ...options, 'service/src'], { cwd: folder, encoding: 'utf8' })
  } catch (error) {
    output = (error as { stdout: string }).stdout
  }
  const reported = new Set(
    [...output.matchAll(/title=lint\/style\/noRestrictedImports,file=([^,]+),line=(\d+)/g)].map(
      ([, file = '', line]) => `${file.replace(/^.*service\/src\//, '')} → ${rooms[Number(line) - 1]?.name}`,
    ),
  )
  for (const { name, file, mayImport } of rooms) {
    for (const other of rooms) {
      if (other.name === name) continue
      const isReported = reported.has(`${file} → ${other.name}`)
      t.equal(isReported, !mayImport.includes(other.name), `${name} → ${other.name}`)
    }
  }
  t.end()
})

const steps = rows.filter(({ heading }) => heading === 'Where a request is admitted, charged and refunded')

t.test('the map names the functions that admit, charge and refund, where they are', t => {
  t.ok(steps.length > 5)
  for (const { cells } of steps) {
    const [, path = ''] = /\((.+)\)/.exec(cells.Where ?? '') ?? []
    const source = readPage(path)
    for (const name of namesIn(cells.Function)) {
      t.ok(new RegExp(`^ *(?:async |export (?:async )?function )?${name}\\(`, 'm').test(source), `${name} in ${path}`)
    }
  }
  t.end()
})

t.test('the map names every constant of admission, charging and refunds', t => {
  const named = steps.flatMap(({ cells }) => {
    const [, path = ''] = /\((.+)\)/.exec(cells.Where ?? '') ?? []
    return namesIn(cells.Constants).map(name => `${path} ${name}`)
  })
  const declared = ['service/src/protection/', 'service/src/inference/queue/'].flatMap(folder =>
    readdirSync(new URL(folder, root)).flatMap(file =>
      [
        ...readPage(folder + file).matchAll(
          /^(?:export )?const (\w+)(?:: number)? = (?:[-\d]|\{.*\d)|^export const (\w+) = \{$/gm,
        ),
      ].map(([, name, group]) => `${folder}${file} ${name ?? group}`),
    ),
  )
  t.strictSame(named.sort(), declared.sort())
  t.end()
})
