/** How many cores this process may use: those of the machine, or fewer where a container has a quota of CPU time. */
import { readFileSync } from 'node:fs'
import { availableParallelism } from 'node:os'
import { dirname, join } from 'node:path'

/** Where the kernel tells of control groups; tests have folders of their own. */
export interface CgroupFiles {
  /** `/proc/self/cgroup`. */
  readonly self: string
  /** Where control groups are mounted. */
  readonly root: string
}

const kernel: CgroupFiles = { self: '/proc/self/cgroup', root: '/sys/fs/cgroup' }

/** Whole cores, 1 or more: workers that share a part of a core would be throttled together. */
export function usableCores(files: CgroupFiles = kernel, cores: number = availableParallelism()): number {
  return Math.max(1, Math.min(cores, Math.floor(cpuQuota(files))))
}

/** Cores by the least quota of the process's control group and of those around it; Infinity where there is none. */
function cpuQuota({ self, root }: CgroupFiles): number {
  let least = Number.POSITIVE_INFINITY
  for (const line of read(self).split('\n')) {
    const [, controllers, path] = /^\d+:([^:]*):(.+)$/.exec(line) ?? []
    if (controllers === undefined || path === undefined) continue
    const isV2 = controllers === ''
    if (!isV2 && !controllers.split(',').includes('cpu')) continue
    const mounts = isV2 ? [root, join(root, 'unified')] : [join(root, controllers), join(root, 'cpu')]
    for (const mount of mounts) {
      // In a container the path is that of the host, and the group itself is the root.
      for (let group = path; ; group = dirname(group)) {
        least = Math.min(least, (isV2 ? quotaV2 : quotaV1)(join(mount, group)))
        if (group === '/' || group === '.') break
      }
    }
  }
  return least
}

/** `cpu.max`: `max`, or microseconds of CPU time, and of each period. */
function quotaV2(folder: string): number {
  const [quota = 'max', period = '100000'] = read(join(folder, 'cpu.max')).trim().split(' ')
  return ratio(Number(quota), Number(period))
}

function quotaV1(folder: string): number {
  return ratio(Number(read(join(folder, 'cpu.cfs_quota_us')) || -1), Number(read(join(folder, 'cpu.cfs_period_us'))))
}

const ratio = (quota: number, period: number): number =>
  quota > 0 && period > 0 ? quota / period : Number.POSITIVE_INFINITY

function read(file: string): string {
  try {
    return readFileSync(file, 'utf8')
  } catch {
    return ''
  }
}
