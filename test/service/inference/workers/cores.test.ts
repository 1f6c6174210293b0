import { join } from 'node:path'
import t, { type Test } from 'tap'
import { usableCores } from '../../../../service/src/inference/workers/cores.js'

/** Control groups as the kernel shows them: `/proc/self/cgroup` and the files of each group. */
function usable(t: Test, self: string, root: object, machine = 8): number {
  const dir = t.testdir({ self, root: root as never })
  return usableCores({ self: join(dir, 'self'), root: join(dir, 'root') }, machine)
}

t.test('a quota of CPU time counts as whole cores, by version 2 of control groups', async t => {
  t.equal(usable(t, '0::/\n', { 'cpu.max': '200000 100000\n' }), 2)
  t.equal(usable(t, '0::/\n', { 'cpu.max': '350000 100000\n' }), 3)
  t.equal(usable(t, '0::/\n', { 'cpu.max': '50000 100000\n' }), 1, 'a part of a core is one')
  t.equal(usable(t, '0::/\n', { 'cpu.max': 'max 100000\n' }), 8)
  t.equal(usable(t, '0::/\n', { 'cpu.max': '3200000 100000\n' }), 8, 'there are no more than the machine has')
})

t.test('a group has no more than those around it', async t => {
  const root = { 'pod.slice': { 'cpu.max': '300000 100000\n', app: { 'cpu.max': 'max 100000\n' } } }
  t.equal(usable(t, '0::/pod.slice/app\n', root), 3)
})

t.test('and by version 1, also where the path is that of the host', async t => {
  const quota = (us: number) => ({ 'cpu.cfs_quota_us': `${us}\n`, 'cpu.cfs_period_us': '100000\n' })
  t.equal(usable(t, '4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n', { 'cpu,cpuacct': quota(400_000) }), 4)
  t.equal(usable(t, '4:cpuacct,cpu:/docker/abc\n', { cpu: quota(250_000) }), 2)
  t.equal(usable(t, '4:cpu,cpuacct:/\n', { 'cpu,cpuacct': quota(-1) }), 8)
})

t.test('where nothing tells of a quota all cores are usable', async t => {
  t.equal(usableCores({ self: '/nowhere', root: '/nowhere' }, 5), 5)
  t.ok(usableCores() >= 1)
})
