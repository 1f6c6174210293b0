/**
 * Writes what the service is made of at run time, with version, licence and checksum of each part: `npm run sbom`, or
 * `npm run sbom -- FILE`. The form is CycloneDX, as `npm sbom` makes it from package-lock.json.
 *
 * `npm sbom --omit dev` would leave out Fastify and ioredis, since the tests of the workspace need them too; so everything
 * is asked for, and what neither the plugin nor the service leads to is taken out here.
 */
import { spawnSync } from 'node:child_process'
import { writeFileSync } from 'node:fs'

const [file = 'sbom.cdx.json'] = process.argv.slice(2)
const { status, stdout } = spawnSync(
  'npm',
  ['sbom', '--package-lock-only', '--sbom-format=cyclonedx', '--sbom-type=application'],
  {
    encoding: 'utf8',
    maxBuffer: 64 * 2 ** 20,
    stdio: ['ignore', 'pipe', 'inherit'],
  },
)
if (status !== 0) process.exit(status ?? 1)

const bom = JSON.parse(stdout)

/** The package's own name, where npm gives that of the folder. */
const named = component => ({
  ...component,
  name: decodeURIComponent(component.purl.slice('pkg:npm/'.length).split('@').slice(0, -1).join('@')),
})

const own = bom.metadata.component
const dependsOn = new Map(bom.dependencies.map(({ ref, dependsOn }) => [ref, dependsOn]))
// The workspace's own packages; what else it depends on is for development.
const packages = bom.components.filter(({ purl }) => /^pkg:npm\/ml-api-rate-limiter(-service)?@/.test(purl))
const kept = new Set(packages.map(component => component['bom-ref']))
for (const ref of kept) for (const needed of dependsOn.get(ref) ?? []) kept.add(needed)

bom.metadata.component = named(own)
bom.components = bom.components.filter(component => kept.has(component['bom-ref'])).map(named)
bom.dependencies = bom.dependencies
  .filter(({ ref }) => kept.has(ref) || ref === own['bom-ref'])
  .map(({ ref, dependsOn }) => ({ ref, dependsOn: dependsOn.filter(needed => kept.has(needed)) }))

writeFileSync(file, `${JSON.stringify(bom, null, 2)}\n`)
console.log(`${file}: ${bom.components.length} components`)
