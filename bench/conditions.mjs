import { readFileSync } from 'node:fs'
import { cpus, loadavg, release, totalmem, type } from 'node:os'

const PACKAGES = ['fastify', 'ioredis', '@fastify/rate-limit', 'rate-limiter-flexible', 'async-ratelimiter']

/** What a reader must know to compare these figures with others. */
export async function conditionsOf(redis) {
  return {
    cpu: cpus()[0].model,
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `${type()} ${release()}`,
    node: process.version,
    redis: await redis.version(),
    packages: Object.fromEntries(PACKAGES.map(name => [name, versionOf(name)])),
    loadBefore: Math.round(loadavg()[0] * 100) / 100,
  }
}

/** @returns {string | undefined} undefined where it is not installed */
export function versionOf(name) {
  for (const folder of ['../node_modules', 'node_modules']) {
    try {
      return JSON.parse(readFileSync(new URL(`${folder}/${name}/package.json`, import.meta.url), 'utf8')).version
    } catch {}
  }
  return undefined
}

/** Microseconds that all cores of the machine have worked since it started. */
export function machineWork() {
  let ms = 0
  for (const { times } of cpus()) ms += times.user + times.nice + times.sys + times.irq
  return ms * 1000
}
