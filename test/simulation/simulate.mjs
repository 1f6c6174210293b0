/**
 * The simulation: `npm run simulate`, or `npm run simulate -- --seed 7 --schedules 50000 --jobs 2`. Ends with 0 only if no
 * schedule failed. `--plan FILE` runs one plan, `--history` tells what happened in it.
 *
 * One file is made of the simulation and of the sources of the plugin, because the hooks of a test runner would slow down
 * every promise. `plant` changes a source on its way, to show that the simulation finds what is wrong.
 */
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import { build } from 'esbuild'

const root = fileURLToPath(new URL('../../', import.meta.url))

/**
 * Makes a program of the simulation. `plant`: `{ file, from, to }`, of which `from` has to stand once in the file.
 * @returns {Promise<{ file: string, remove: () => void }>}
 */
export async function bundled(plant) {
  const cache = join(root, 'node_modules', '.cache', 'simulation')
  mkdirSync(cache, { recursive: true })
  const folder = mkdtempSync(join(cache, 'run-'))
  const file = join(folder, 'main.mjs')
  const changed = path => {
    const text = readFileSync(path, 'utf8')
    if (plant === undefined || !path.endsWith(plant.file)) return text
    if (text.split(plant.from).length !== 2) throw new Error(`not once in ${plant.file}: ${plant.from}`)
    return text.replace(plant.from, () => plant.to)
  }
  const sources = {
    name: 'sources',
    setup({ onLoad }) {
      onLoad({ filter: /[/\\](?:plugin[/\\]src|test)[/\\].*\.ts$/ }, ({ path }) => {
        // Files that are read by their place beside the source.
        const contents = changed(path).replace(
          /readFileSync\(new URL\((.*?), import\.meta\.url\), 'utf8'\)/g,
          (_call, name) => `SOURCE_TEXT[new URL(${name}, ${JSON.stringify(pathToFileURL(path).href)}).href]`,
        )
        return { contents, loader: 'ts' }
      })
    },
  }
  const lua = ['plugin/src/stores/redis', 'test/simulation'].flatMap(folder => luaIn(join(root, folder)))
  const texts = Object.fromEntries(lua.map(path => [pathToFileURL(path).href, changed(path)]))
  await build({
    entryPoints: [join(root, 'test/simulation/main.ts')],
    outfile: file,
    bundle: true,
    packages: 'external',
    platform: 'node',
    format: 'esm',
    target: 'node20.19',
    conditions: ['ml-api-rate-limiter:source'],
    banner: { js: `const SOURCE_TEXT = ${JSON.stringify(texts)}` },
    plugins: [sources],
  })
  return { file, remove: () => rmSync(folder, { recursive: true, force: true }) }
}

function luaIn(folder) {
  const files = readdirSync(folder).filter(name => name.endsWith('.lua'))
  return files.map(name => join(folder, name))
}

/** Runs the program, in as many processes as `jobs` says. Resolves with its exit code and what it said. */
export async function simulate(args, { plant, jobs = 1, stdio = 'pipe' } = {}) {
  const { file, remove } = await bundled(plant)
  try {
    const runs = Array.from({ length: jobs }, async (_, job) => {
      const split = ['--jobs', `${jobs}`, '--job', `${job}`]
      // A test runner hooks itself into every Node.js that it sees started, and slows it down.
      const command = ['-u', 'NODE_OPTIONS', process.execPath, file, ...args, ...split]
      const child = spawn('env', command, { stdio: ['ignore', stdio, 'inherit'] })
      let said = ''
      child.stdout?.on('data', text => {
        said += text
      })
      const [code] = await once(child, 'close')
      return { code: code ?? 1, said }
    })
    const ends = await Promise.all(runs)
    return { code: Math.max(...ends.map(({ code }) => code)), said: ends.map(({ said }) => said).join('') }
  } finally {
    remove()
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const args = process.argv.slice(2)
  const at = args.indexOf('--jobs')
  const [, jobs = '1'] = at === -1 ? [] : args.splice(at, 2)
  if (!/^[1-9]\d?$/.test(jobs)) throw new TypeError('--jobs takes a whole number from 1 to 99')
  if (!args.includes('--schedules')) args.push('--schedules', '20000')
  const { code } = await simulate(args, { jobs: Number(jobs), stdio: 'inherit' })
  process.exitCode = code
}
