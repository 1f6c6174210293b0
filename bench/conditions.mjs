import { readFileSync } from 'node:fs'
import { createRequire } from 'node:module'
import { cpus, loadavg, release, totalmem, type } from 'node:os'

const PACKAGES = ['fastify', 'ioredis', '@fastify/rate-limit', 'rate-limiter-flexible', 'async-ratelimiter']

/**
 * What a reader must know to compare these figures with others. `against`: the other build that was measured.
 *
 * @param {object} redis
 * @param {{ folder: string, commit?: string }} [against]
 */
export async function conditionsOf(redis, against) {
  return {
    cpu: cpus()[0].model,
    cores: cpus().length,
    memoryGiB: Math.round(totalmem() / 2 ** 30),
    system: `${type()} ${release()}`,
    node: process.version,
    redis: await redis.version(),
    packages: Object.fromEntries(PACKAGES.map(name => [name, versionOf(name)])),
    against,
    loadBefore: Math.round(loadavg()[0] * 100) / 100,
  }
}

/** @returns {string | undefined} undefined where it is not installed */
export function versionOf(name) {
  try {
    const entry = createRequire(import.meta.url).resolve(name)
    const folder = entry.slice(0, entry.lastIndexOf(`node_modules/${name}/`))
    return JSON.parse(readFileSync(`${folder}node_modules/${name}/package.json`, 'utf8')).version
  } catch {
    return undefined
  }
}

/** Microseconds that all cores of the machine have worked since it started. */
export function machineWork() {
  let ms = 0
  for (const { times } of cpus()) ms += times.user + times.nice + times.sys + times.irq
  return ms * 1000
}

/** The same in words. */
export function describe({ cpu, cores, memoryGiB, system, node, redis, packages, loadBefore, against }) {
  const versions = Object.entries(packages).map(([name, version]) => `${name} ${version ?? 'not installed'}`)
  return [
    `${cpu}, ${cores} cores, ${memoryGiB} GiB, ${system}, load before ${loadBefore}`,
    `Node ${node}, Redis ${redis} on the loopback, 64 connections, load generator in a process of its own`,
    versions.join(', '),
    ...(against === undefined ? [] : [`the other build: ${against.commit ?? against.folder}`]),
  ].join('\n')
}
