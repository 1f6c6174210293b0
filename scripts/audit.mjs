/**
 * Known vulnerabilities of what is installed: `npm run audit`. Exits with 1 where there are some; a registry that cannot
 * be asked (no network, a mirror without that route) is told of and is no failure.
 */
import { spawnSync } from 'node:child_process'

const { stdout } = spawnSync('npm', ['audit', '--json'], { encoding: 'utf8', maxBuffer: 64 * 2 ** 20 })
const { message, metadata, vulnerabilities = {} } = JSON.parse(stdout)
if (metadata === undefined) {
  console.log(`audit: the registry cannot be asked (${message})`)
} else {
  for (const { name, severity, range } of Object.values(vulnerabilities)) console.log(`${severity}: ${name} ${range}`)
  const { total } = metadata.vulnerabilities
  console.log(`audit: ${total} known vulnerabilities`)
  process.exitCode = total === 0 ? 0 : 1
}
