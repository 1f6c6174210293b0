/** The manifests of deploy/kubernetes: as files, and as kustomize makes them. */
import { spawnSync } from 'node:child_process'
import { cpSync, readdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { Deployment, StatefulSet } from 'kubernetes-models/apps/v1'
import { HorizontalPodAutoscaler } from 'kubernetes-models/autoscaling/v2'
import { Job } from 'kubernetes-models/batch/v1'
import { NetworkPolicy } from 'kubernetes-models/networking.k8s.io/v1'
import { PodDisruptionBudget } from 'kubernetes-models/policy/v1'
import { ConfigMap, Secret, Service, ServiceAccount } from 'kubernetes-models/v1'
import t, { type Test } from 'tap'
import { parse, parseAllDocuments } from 'yaml'
import { readConfig, settings } from '../../service/src/config.js'
import { readPlans } from '../../service/src/protection/plans.js'
import { codeBlocks, readPage } from '../docs/markdown.js'
import { buildService, IRIS } from '../support/build.js'

const root = new URL('../../', import.meta.url)
const folder = fileURLToPath(new URL('deploy/kubernetes/', root))
const read = (file: string) => readFileSync(new URL(file, root), 'utf8')

interface Manifest {
  readonly apiVersion: string
  readonly kind: string
  readonly metadata: { readonly name: string }
}

const KINDS: Readonly<Record<string, new (data: never) => { validate(): void }>> = {
  Deployment,
  StatefulSet,
  Job,
  HorizontalPodAutoscaler,
  NetworkPolicy,
  PodDisruptionBudget,
  ConfigMap,
  Secret,
  Service,
  ServiceAccount,
}

const documentsIn = (text: string): Manifest[] =>
  parseAllDocuments(text)
    .map(document => document.toJS() as Manifest)
    .filter(document => document?.kind !== undefined)

const files = readdirSync(folder, { recursive: true, encoding: 'utf8' }).filter(file => file.endsWith('.yaml'))
/** Of all overlays and components together. */
const manifests = files
  .filter(file => !file.endsWith('kustomization.yaml'))
  .flatMap(file => documentsIn(readFileSync(join(folder, file), 'utf8')).map(manifest => ({ file, manifest })))

// biome-ignore lint/suspicious/noExplicitAny: what is asked of a manifest is checked where it is asked.
type Any = any
const findIn = (among: readonly Manifest[], kind: string, name: string): Any =>
  among.find(each => each.kind === kind && each.metadata.name === name)
const find = (kind: string, name: string, file = ''): Any =>
  findIn(
    manifests.filter(each => each.file.includes(file)).map(({ manifest }) => manifest),
    kind,
    name,
  )

/** `A=b` lines, as kustomize reads them. */
const envIn = (file: string): Record<string, string> =>
  Object.fromEntries(
    readFileSync(join(folder, file), 'utf8')
      .split('\n')
      .filter(line => line !== '' && !line.startsWith('#'))
      .map(line => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)]),
  )

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

function checkAll(t: Test, among: readonly { readonly file: string; readonly manifest: Manifest }[]): void {
  for (const { file, manifest } of among) {
    const Kind = KINDS[manifest.kind]
    if (Kind === undefined) throw new Error(`${manifest.kind} has no schema here`)
    const made = new Kind(manifest as never)
    const name = `${file}: ${manifest.kind} ${manifest.metadata.name}`
    t.strictSame(unknownMembers(made), [], name)
    t.equal((made as unknown as Manifest).apiVersion, manifest.apiVersion, `${name} is of its API version`)
  }
}

t.test('every manifest is what the schema of its kind says, and has nothing that it does not say', async t => {
  t.ok(manifests.length >= 20)
  checkAll(t, manifests)
})

const overlays = ['small', 'cluster']

t.test('the settings of the manifests are such as the service takes', async t => {
  const { terminationGracePeriodSeconds } = find('Deployment', 'ml-api').spec.template.spec
  for (const overlay of overlays) {
    const env = { ...envIn('base/settings.env'), ...envIn(`overlays/${overlay}/settings.env`) }
    for (const name of Object.keys(env)) t.ok(name in settings, name)
    const { stopDelayMs, stopTimeoutMs, trustProxy } = readConfig(env)
    t.ok(terminationGracePeriodSeconds * 1000 > stopDelayMs + stopTimeoutMs, 'a stop is given the time it takes')
    for (const proxy of trustProxy)
      t.match(proxy, /^[^/]+$|\/(?:2[4-9]|3\d)$|:.*\/1[12]\d$/, `${proxy} is a few addresses`)
  }
  for (const name of Object.keys(find('Secret', 'ml-api').stringData)) t.ok(name in settings, name)
  t.doesNotThrow(() => readPlans(join(folder, 'base/limits.json')))
})

t.test('the autoscaler goes by a metric that there is, and by CPU; the probes ask routes that there are', async t => {
  const { ask, predict } = await buildService(t)
  await predict(IRIS)
  const [{ pods }, { resource }] = find('HorizontalPodAutoscaler', 'ml-api').spec.metrics
  t.equal(resource.name, 'cpu')
  const { custom } = parse(read('deploy/helm/prometheus-adapter.yaml')).rules
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
  for (const { manifest, file } of manifests) {
    const pod = (manifest as Any).spec?.template?.spec
    if (pod === undefined) continue
    t.equal(pod.securityContext.runAsNonRoot, true, file)
    t.equal(pod.automountServiceAccountToken, false, file)
    for (const { name, securityContext, resources } of [...pod.containers, ...(pod.initContainers ?? [])]) {
      t.match(
        securityContext,
        { readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: { drop: ['ALL'] } },
        `${file}: ${name}`,
      )
      t.ok(resources.requests.cpu && resources.limits.memory, `${file}: ${name}`)
    }
  }
})

t.test('what selects pods selects those that there are', async t => {
  for (const [kind, name, file] of [
    ['Deployment', 'ml-api', 'base'],
    ['Deployment', 'ml-api-redis', 'small'],
    ['StatefulSet', 'ml-api-redis', 'cluster'],
    ['StatefulSet', 'ml-api-keys', 'components/keys'],
  ] as const) {
    const { selector, template } = find(kind, name, file).spec
    const { labels } = template.metadata
    t.strictSame(selector.matchLabels, labels)
    t.strictSame(find('Service', name, file).spec.selector, labels)
    t.strictSame(find('NetworkPolicy', name, file).spec.podSelector.matchLabels, labels)
  }
  const { labels } = find('Deployment', 'ml-api').spec.template.metadata
  t.strictSame(find('PodDisruptionBudget', 'ml-api').spec.selector.matchLabels, labels)
  for (const { manifest, file } of manifests) {
    if (!manifest.metadata.name.startsWith('ml-api-to-')) continue
    t.strictSame((manifest as Any).spec.podSelector.matchLabels, labels, file)
    t.strictSame((manifest as Any).spec.policyTypes, ['Egress'], file)
  }
  t.equal(find('Service', 'ml-api-redis', 'small').spec.ports[0].port, 6379)
})

const kustomizer = [['kubectl', 'kustomize'] as const, ['kustomize', 'build'] as const].find(
  ([program]) => spawnSync(program, ['version', '--help']).error === undefined,
)
const NO_KUSTOMIZE = kustomizer === undefined ? 'neither kubectl nor kustomize is installed' : false

/** What `kubectl apply -k` would apply. */
function kustomize(path: string): Manifest[] {
  const [program, verb] = kustomizer as NonNullable<typeof kustomizer>
  const { status, stdout, stderr } = spawnSync(program, [verb, path], { encoding: 'utf8' })
  if (status !== 0) throw new Error(`${program} ${verb} ${path}: ${stderr}`)
  return documentsIn(stdout)
}

/** A copy of the manifests that a test may change. */
function copyOf(t: Test): string {
  const copy = t.testdir()
  cpSync(folder, copy, { recursive: true })
  return copy
}

const podsOf = (applied: readonly Manifest[]): Any => findIn(applied, 'Deployment', 'ml-api').spec.template.spec

t.test('kustomize makes each overlay, and the folder itself is the small one', { skip: NO_KUSTOMIZE }, async t => {
  t.strictSame(kustomize(folder), kustomize(join(folder, 'overlays/small')))
  for (const overlay of overlays) {
    const applied = kustomize(join(folder, 'overlays', overlay))
    checkAll(
      t,
      applied.map(manifest => ({ file: overlay, manifest })),
    )
    const { containers, initContainers, volumes } = podsOf(applied)
    const names = applied.map(({ kind, metadata }) => `${kind} ${metadata.name}`)
    const limits = volumes.find((volume: { name: string }) => volume.name === 'limits').configMap.name
    t.ok(names.includes(`ConfigMap ${limits}`), 'the limits that are mounted are there')
    const [{ configMapRef }] = containers[0].envFrom
    t.ok(names.includes(`ConfigMap ${configMapRef.name}`), 'the settings are there')
    const { data } = findIn(applied, 'ConfigMap', configMapRef.name)
    t.match(data, { LIMITS_FILE: '/etc/ml-api/limits.json', MODELS_DIR: '/models' })
    t.ok(data.REDIS_URL)
    const mounts = containers[0].volumeMounts.map(({ mountPath }: { mountPath: string }) => mountPath)
    t.strictSame(mounts, ['/models', '/etc/ml-api'])
    for (const { image } of [...containers, ...initContainers]) t.match(image, /^registry\.example\/.*:\d/)
  }
})

t.test(
  'the nodes that the service of the cluster overlay asks first are those of its Redis',
  { skip: NO_KUSTOMIZE },
  async t => {
    const env = envIn('overlays/cluster/settings.env')
    t.ok(readConfig(env).redis)
    const redisUrls = env.REDIS_URL?.split(',')
    const { serviceName, replicas } = find('StatefulSet', 'ml-api-redis').spec
    t.strictSame(
      redisUrls,
      Array.from({ length: replicas }, (_, index) => `redis://ml-api-redis-${index}.${serviceName}:6379`),
    )
    const applied = kustomize(join(folder, 'overlays/cluster'))
    t.match(findIn(applied, 'HorizontalPodAutoscaler', 'ml-api').spec, { minReplicas: 10, maxReplicas: 100 })
  },
)

t.test(
  'a changed limit, setting or image reaches every replica by a rollout, and nothing else starts one',
  { skip: NO_KUSTOMIZE },
  async t => {
    const copy = copyOf(t)
    const pods = () => JSON.stringify(podsOf(kustomize(copy)))
    const before = pods()
    t.equal(pods(), before, 'what did not change leaves the pods as they are')

    const limits = join(copy, 'base/limits.json')
    writeFileSync(limits, readFileSync(limits, 'utf8').replace('100', '200'))
    const withLimits = pods()
    t.not(withLimits, before, 'a limit')

    const env = join(copy, 'overlays/small/settings.env')
    writeFileSync(env, `${readFileSync(env, 'utf8')}QUEUE_MAX=5\n`)
    const withSettings = pods()
    t.not(withSettings, withLimits, 'a setting')

    const base = join(copy, 'base/kustomization.yaml')
    writeFileSync(
      base,
      readFileSync(base, 'utf8').replace(/(?<entry>ml-api-models, .*newTag: )[\w.-]+/, '$<entry>2026-01-01'),
    )
    t.not(pods(), withSettings, 'the models')

    const { rollingUpdate } = find('Deployment', 'ml-api').spec.strategy
    t.equal(rollingUpdate.maxUnavailable, 0, 'a rollout takes no replica before another is ready')
  },
)

t.test('each component can be added to each overlay', { skip: NO_KUSTOMIZE }, async t => {
  const components = readdirSync(join(folder, 'components'))
  t.ok(components.length >= 4)
  for (const overlay of overlays) {
    const copy = copyOf(t)
    const path = join(copy, 'overlays', overlay)
    const file = join(path, 'kustomization.yaml')
    const given = readFileSync(file, 'utf8').replace(/^components: .*\n/m, '')
    writeFileSync(file, given)
    const plain = kustomize(path)
    for (const component of components) {
      writeFileSync(file, `${given}components: [../../components/${component}]\n`)
      const applied = kustomize(path)
      checkAll(
        t,
        applied.map(manifest => ({ file: component, manifest })),
      )
      t.notSame(applied, plain, component)
    }
    writeFileSync(file, `${given}components: [../../components/models-volume, ../../components/otlp]\n`)
    const pods = podsOf(kustomize(path))
    t.strictSame(pods.initContainers ?? [], [])
    t.strictSame(
      pods.volumes.find((volume: { name: string }) => volume.name === 'models'),
      { name: 'models', persistentVolumeClaim: { claimName: 'ml-api-models', readOnly: true } },
    )
  }
})

t.test('the overlay that docs/deployment.md shows works', { skip: NO_KUSTOMIZE }, async t => {
  const [block] = codeBlocks(readPage('docs/deployment.md')).filter(({ code }) => code.includes('kind: Kustomization'))
  const copy = copyOf(t)
  const mine = join(copy, 'overlays/mine')
  cpSync(join(copy, 'overlays/small'), mine, { recursive: true })
  cpSync(join(copy, 'base/limits.json'), join(mine, 'limits.json'))
  writeFileSync(join(mine, 'kustomization.yaml'), block?.code ?? '')
  const applied = kustomize(mine)
  const { containers, initContainers } = podsOf(applied)
  for (const { image } of [...containers, ...initContainers]) t.equal(image, 'ghcr.io/you/ml-api-rate-limiter:1.2.3')
  const { data } = findIn(applied, 'ConfigMap', containers[0].envFrom[0].configMapRef.name)
  t.match(data, { TRUST_PROXY: '10.244.3.7', OTEL_EXPORTER_OTLP_ENDPOINT: /^http/, REDIS_URL: /^redis:/ })
})

t.test('no Helm values and no sample Secret are among what is applied', { skip: NO_KUSTOMIZE }, async t => {
  for (const overlay of overlays) {
    for (const { kind } of kustomize(join(folder, 'overlays', overlay))) t.not(kind, 'Secret')
  }
  for (const file of files) t.ok(parse(readFileSync(join(folder, file), 'utf8').split('\n---')[0] as string).kind, file)
})
