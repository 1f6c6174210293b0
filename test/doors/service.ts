/** The service without a clone: both packages are packed, installed by npm into an empty folder, and serve models. */
import { type ChildProcess, spawn } from 'node:child_process'
import { cpSync, existsSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import t, { type Test } from 'tap'
import { childEnv } from '../support/child-env.js'
import { until } from '../support/redis-fleet.js'
import { emptyFolder, offline, pack, run } from './support.js'

const IRIS = { model: 'iris', features: [5.1, 3.5, 1.4, 0.2] }
const START_MS = 120_000
const README = readFileSync('service/README.md', 'utf8')

/** Starts the service by a command, as in a terminal, and gives its url. */
async function serve(t: Test, folder: string, ...args: string[]): Promise<string> {
  const child: ChildProcess = spawn('env', ['-u', 'NODE_OPTIONS', 'npx', ...args], {
    cwd: folder,
    env: { ...childEnv(), PORT: '0', HOST: '127.0.0.1', STOP_DELAY_MS: '0' },
    detached: true,
  })
  let output = ''
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', data => (output += data))
  const ended = new Promise(end => child.on('close', end))
  t.teardown(async () => {
    if (child.exitCode === null) process.kill(-(child.pid as number), 'SIGINT')
    await ended
  })
  const url = () => /listening on (http:\/\/127[^"\s]*)/.exec(output)?.[1]
  await until('the service listens', async () => url() !== undefined || child.exitCode !== null, START_MS)
  if (url() === undefined) throw new Error(`it ended: ${output}`)
  await until('its models are loaded', async () => (await fetch(`${url()}/health/ready`)).ok, START_MS)
  return url() as string
}

async function predict(url: string): Promise<unknown> {
  const headers = { 'content-type': 'application/json' }
  return (await fetch(`${url}/v1/predict`, { method: 'POST', headers, body: JSON.stringify(IRIS) })).json()
}

const skip = await offline()
t.test('the service is installed from its package, and serves a folder of models', { skip: skip ?? false }, async t => {
  const folder = emptyFolder(t)
  cpSync('models/iris', join(folder, 'models/iris'), { recursive: true })
  const tarballs = [await pack('plugin'), await pack('service')]
  const install = ['install', '--ignore-scripts', '--no-audit', '--no-fund', ...tarballs]
  const { code, output } = await run('npm', install, folder)
  t.equal(code, 0, output)
  const warned = [...output.matchAll(/EBADENGINE\s+package: '(@?[^'@]+)@/g)].map(([, name = '']) => name)
  for (const name of warned) t.ok(README.includes(`\`${name}\``), `the README tells of the warning about ${name}`)
  t.notMatch(output, /npm error|deprecated/)

  const setosa = { model: 'iris', predictions: [{ label: 'setosa' }] }
  t.match(await predict(await serve(t, folder, 'ml-api-rate-limiter-service', 'serve', './models')), setosa)
  const url = await serve(t, folder, 'ml-api-rate-limiter', 'serve')
  t.match(await predict(url), setosa, 'the folder `models` is the default')
  for (const path of [
    '/',
    '/docs/',
    '/docs/static/swagger-ui.css',
    '/playground/uPlot.esm.js',
    '/openapi.json',
    '/metrics',
  ]) {
    t.equal((await fetch(url + path)).status, 200, path)
  }
  const modules = join(folder, 'node_modules')
  for (const file of ['README.md', 'LICENSE', 'CHANGELOG.md', 'dist/bundle/LICENSES.txt']) {
    t.ok(existsSync(join(modules, 'ml-api-rate-limiter-service', file)), `service: ${file}`)
  }
  for (const file of ['README.md', 'LICENSE', 'CHANGELOG.md', 'STABILITY.md']) {
    t.ok(existsSync(join(modules, 'ml-api-rate-limiter', file)), `plugin: ${file}`)
  }

  rmSync(join(folder, 'models'), { recursive: true })
  const none = await run('npx', ['ml-api-rate-limiter', 'serve'], folder)
  t.match(none, { code: 1, output: /the folder of models '.*models' does not exist; MODELS_DIR names one/ })
  const demo = await serve(t, folder, 'ml-api-rate-limiter', 'serve', '--demo')
  t.match(await predict(demo), setosa)
  const both = await run('npx', ['ml-api-rate-limiter', 'serve', './models', '--demo'], folder)
  t.match(both, { code: 2, output: /give one of/ })
})
