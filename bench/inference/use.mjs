/** Microseconds of processor time of all threads, and bytes held, so far. */
export function useOf() {
  const { user, system } = process.cpuUsage()
  return { cpu: user + system, rss: process.memoryUsage.rss() }
}
