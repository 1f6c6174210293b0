/**
 * The image as it is built and composed: `npm run test:image`. Needs a container engine, the base images, and a registry
 * of npm for the build; takes minutes.
 */
import { chmodSync, cpSync, mkdtempSync, renameSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as delay } from 'node:timers/promises'
import { fileURLToPath } from 'node:url'
import t, { type Test } from 'tap'
import { readConfig } from '../../service/src/config.js'
import { clientOf } from '../support/build.js'
import { askInside, engine, inspect, must, NO_COMPOSE, NO_ENGINE } from '../support/engine.js'
import { Load, lost, sendLongBody } from '../support/proxy.js'
import { freePort, until } from '../support/redis-fleet.js'

const root = fileURLToPath(new URL('../../', import.meta.url))
const TAG = `ml-api-rate-limiter:test-${process.pid}`
const LONG_MS = 180_000

/** What the kernel says of a process that is not root and may gain nothing. */
const NO_RIGHTS = /^Uid:\s+[1-9][\s\S]*^CapEff:\s+0+\nCapBnd:\s+0+$[\s\S]*^NoNewPrivs:\s+1$/m

t.setTimeout(0)

t.test('the image', { skip: NO_ENGINE }, async t => {
  // On the network of this machine: some engines have no other for a build.
  const args = ['build', '--tag', TAG, '--build-arg', 'VERSION=1.2.3', '--build-arg', 'REVISION=abc', root]
  const build = await engine([...args.slice(0, 1), '--network', 'host', ...args.slice(1)])
  if (build.status !== 0) t.comment(build.output.slice(-2000))
  if (build.status !== 0) await must(args)
  t.teardown(() => engine(['rmi', '--force', TAG]))

  t.test('says what it is, and holds its licence', async t => {
    const labels = JSON.parse(await inspect(TAG, '{{json .Config.Labels}}'))
    t.match(labels, {
      'org.opencontainers.image.title': 'ml-api-rate-limiter',
      'org.opencontainers.image.licenses': 'MIT',
      'org.opencontainers.image.version': '1.2.3',
      'org.opencontainers.image.revision': 'abc',
      'org.opencontainers.image.base.name': /^node:/,
    })
    t.equal(await inspect(TAG, '{{.Config.User}}'), 'node')
  })

  t.test('serves read-only and without any capability, and stops on SIGTERM once all is answered', async t => {
    const { id, url } = await runAlone(t)
    const { predict } = clientOf(url)
    t.equal((await predict()).status, 200)
    await until('it is healthy', async () => (await inspect(id, '{{.State.Health.Status}}')) === 'healthy', LONG_MS)
    t.match(await must(['exec', id, 'cat', 'LICENSE']), 'MIT License')
    t.not((await engine(['exec', id, 'touch', '/app/x'])).status, 0, 'nothing is written to the image')
    t.match(await must(['exec', id, 'cat', '/proc/1/status']), NO_RIGHTS)

    await must(['kill', '--signal', 'HUP', id])
    t.equal((await predict()).status, 200, 'a reload ends nothing')

    const load = new Load(50, predict)
    await until('requests are under way', async () => load.sent > 20)
    const { sent } = load
    await must(['kill', '--signal', 'TERM', id])
    const exitCode = await must(['wait', id])
    t.equal(exitCode, '0')
    t.strictSame(lost((await load.end()).slice(0, sent)), [], 'what came before the stop was answered')
  })

  t.test('composed', { skip: NO_COMPOSE }, async t => {
    const models = mkdtempSync(join(tmpdir(), 'image-models-'))
    t.teardown(() => rmSync(models, { recursive: true, force: true }))
    // For the user of the image, who is another one.
    chmodSync(models, 0o755)
    cpSync(join(root, 'models'), models, { recursive: true })
    const { compose, url } = await composed(t, models, [], { MODELS_DIR: models })
    const { predict } = clientOf(url)
    const replicas = (await compose('ps', '--quiet', 'service')).split('\n')
    t.equal(replicas.length, 2)

    const answered = async (id: string) =>
      Number(
        /^http_requests_total\{route="\/v1\/predict",method="POST",status="2xx"\} (\d+)$/m.exec(
          await askInside(id, '/metrics'),
        )?.[1] ?? 0,
      )
    const bothAnswer = async (since: readonly number[] = []) =>
      until(
        'both replicas answer',
        async () => {
          const now = await Promise.all(replicas.map(answered))
          return now.every((count, index) => count > (since[index] ?? 0))
        },
        LONG_MS,
      )

    await t.test('every container is bounded, reads only, and has no rights', async t => {
      for (const id of (await compose('ps', '--quiet')).split('\n')) {
        const name = await inspect(id, '{{.Name}}')
        const host = JSON.parse(await inspect(id, '{{json .HostConfig}}'))
        t.equal(host.ReadonlyRootfs, true, name)
        t.ok(host.Memory > 0 && host.PidsLimit > 0, name)
        t.match(await must(['exec', id, 'cat', '/proc/1/status']), NO_RIGHTS, name)
      }
    })

    await t.test('both replicas answer predictions, in one quota', async t => {
      t.equal((await predict()).status, 200)
      t.match(await (await fetch(`${url}/health/ready`)).json(), { status: 'ready', store: 'up' })
      const load = new Load(50, predict)
      await bothAnswer()
      t.strictSame(lost(await load.end()), [])
      const counts = await Promise.all(replicas.map(answered))
      const used = counts.reduce((sum, count) => sum + count)
      // What a replica has taken ahead counts as used until it gives it back.
      await until('what was answered is what was charged', async () => {
        const limits = (await (await fetch(`${url}/v1/limits`)).json()) as { policies: { remaining: number }[] }
        return limits.policies[0]?.remaining === 1_000_000 - used
      })
    })

    await t.test('a storm of bodies that are too long costs the others nothing', async t => {
      const load = new Load(50, predict)
      const storm = await Promise.all(
        Array.from({ length: 10 }, (_, index) => sendLongBody(url, 3_000_000, index % 2 === 1)),
      )
      for (const { status, body } of storm) t.match({ status, body }, { status: 413, body: 'BODY_TOO_LARGE' })
      await bothAnswer(await Promise.all(replicas.map(answered)))
      t.strictSame(lost(await load.end()), [])
    })

    await t.test('a replica that is killed and comes back costs nothing', async t => {
      const [first = '', second = ''] = replicas
      const load = new Load(50, predict)
      await must(['kill', '--signal', 'KILL', first])
      const before = await answered(second)
      await until('the other goes on', async () => (await answered(second)) > before + 20, LONG_MS)
      await must(['start', first])
      await until(
        'it is healthy',
        async () => (await inspect(first, '{{.State.Health.Status}}')) === 'healthy',
        LONG_MS,
      )
      await bothAnswer([0, before])
      t.strictSame(lost(await load.end()), [])
    })

    await t.test('while a replica is frozen, each caller is answered in time', async t => {
      const [frozen = '', other = ''] = replicas
      const { requestTimeoutMs } = readConfig({})
      await must(['pause', frozen])
      const load = new Load(10, predict)
      await new Promise(resolve => setTimeout(resolve, requestTimeoutMs + 1000))
      const outcomes = await load.end()
      await must(['unpause', frozen])
      t.strictSame(
        outcomes.filter(({ ms, status }) => status === undefined || ms > requestTimeoutMs + 1000),
        [],
      )
      for (const { status, code } of lost(outcomes)) t.match({ status, code }, { status: 504, code: 'REPLICA_TIMEOUT' })
      t.comment(`${outcomes.length - lost(outcomes).length} of ${outcomes.length} were answered by the other replica`)
      t.ok((await answered(other)) > 0)
    })

    await t.test('a replica that is stopped answers what it has, and costs nothing', async t => {
      const [first = ''] = replicas
      const load = new Load(50, predict)
      await bothAnswer(await Promise.all(replicas.map(answered)))
      await must(['stop', '--time', '30', first])
      t.equal(await inspect(first, '{{.State.ExitCode}}'), '0')
      await must(['start', first])
      await bothAnswer([0, await answered(replicas[1] as string)])
      t.strictSame(lost(await load.end()), [])
    })

    await t.test('a reload by signal reaches every replica', async t => {
      const load = new Load(20, predict)
      cpSync(join(models, 'iris'), join(models, 'iris-copy.new'), { recursive: true })
      renameSync(join(models, 'iris-copy.new'), join(models, 'iris-copy'))
      await compose('kill', '--signal', 'HUP', 'service')
      await until(
        'both have the new model',
        async () =>
          (await Promise.all(replicas.map(id => askInside(id, '/v1/models')))).every(list =>
            list.includes('iris-copy'),
          ),
        LONG_MS,
      )
      t.strictSame(lost(await load.end()), [])
    })
  })

  t.test('composed with a Redis Cluster', { skip: NO_COMPOSE }, async t => {
    const folder = mkdtempSync(join(tmpdir(), 'image-cluster-'))
    t.teardown(() => rmSync(folder, { recursive: true, force: true }))
    const { compose, url } = await composed(t, folder, ['-f', join(root, 'deploy/compose.cluster.yaml')])
    await until(
      'the limits are counted in the cluster',
      async () => ((await (await fetch(`${url}/health/ready`)).json()) as { store: string }).store === 'up',
    )
    t.equal((await clientOf(url).predict()).headers.get('x-ratelimit-remaining'), '999999')
    await compose('restart', 'redis-2')
    await until(
      'the cluster is whole again',
      async () => (await compose('exec', '-T', 'redis', 'redis-cli', 'cluster', 'info')).includes('cluster_state:ok'),
      LONG_MS,
    )
    await until('the limits are counted there again', async () => {
      const answers = await Promise.all(Array.from({ length: 8 }, () => fetch(`${url}/health/ready`)))
      const states = (await Promise.all(answers.map(answer => answer.json()))) as { store: string }[]
      return states.every(({ store }) => store === 'up')
    })
  })
})

/** The composed service on a port of this machine, with the image that was built, taken down with the test. */
async function composed(
  t: Test,
  folder: string,
  variant: readonly string[] = [],
  settings: Record<string, string> = {},
) {
  const override = join(folder, 'compose.image.yaml')
  writeFileSync(override, `services:\n  service:\n    image: ${TAG}\n`)
  const port = await freePort()
  const env = {
    PORT: `${port}`,
    RATE_LIMIT_MAX: '1000000',
    // This machine may be busy with other things.
    STORE_TIMEOUT_MS: '5000',
    ...settings,
  }
  const files = ['-f', join(root, 'compose.yaml'), ...variant, '-f', override]
  const compose = (...args: string[]) => must(['compose', '-p', `image-test-${process.pid}`, ...files, ...args], env)
  t.teardown(() => compose('down', '--volumes', '--timeout', '5'))
  await compose('up', '--detach', '--no-build', '--wait').catch(async error => {
    t.comment(await compose('logs', '--tail', '20'))
    throw error
  })
  return { compose, url: `http://127.0.0.1:${port}` }
}

/**
 * Before the service listens, the engine's proxy closes a connection as soon as it stands, and a `fetch` of Node.js 20
 * then never settles.
 */
async function isReady(url: string): Promise<boolean> {
  const answer = await Promise.race([fetch(`${url}/health/ready`), delay(1000)])
  return answer?.ok === true
}

/** A container of the image by itself, on a port of this machine. */
async function runAlone(t: Test): Promise<{ id: string; url: string }> {
  const port = await freePort()
  const rights = ['--read-only', '--cap-drop', 'ALL', '--security-opt', 'no-new-privileges', '--memory', '2g']
  const ready = async (id: string, url: string) => {
    t.teardown(() => engine(['rm', '--force', id]))
    await until('it is ready', () => isReady(url), LONG_MS)
    return { id, url }
  }
  const url = `http://127.0.0.1:${port}`
  const network = `image-test-${process.pid}`
  if ((await engine(['network', 'create', network])).status === 0) {
    t.teardown(() => engine(['network', 'rm', network]))
    const where = ['--network', network, '--publish', `127.0.0.1:${port}:3000`]
    return ready(await must(['run', '--detach', ...rights, ...where, TAG]), url)
  }
  // An engine without networks of its own.
  const settings = ['--env', 'HOST=127.0.0.1', '--env', `PORT=${port}`]
  return ready(await must(['run', '--detach', ...rights, '--network', 'host', ...settings, TAG]), url)
}
