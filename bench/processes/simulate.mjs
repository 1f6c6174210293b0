/**
 * Several processes of the service on a machine of some cores, in time that is only counted: threads that are busy share
 * the cores evenly, each does one thing at a time, and clients ask again as soon as they are answered. A request goes to
 * the process of its connection, through the first process where that counts, then through the main thread and, for a
 * prediction, a worker. What the memory of a machine does is not in it, nor is the network.
 *
 * @param {{ cores: number, processes: number, clients: number, requests: number,
 *   costs: { first: number, main: number, worker: number, load?: number } }} given costs in µs of a request, by thread;
 *   `load`: of a load generator on the same machine, a thread of its own
 * @returns {{ perSecond: number, busy: { first: number, main: number, worker: number } }} `busy`: the part of the time
 *   that such a thread is at work, on average
 */
export function simulate({ cores, processes, clients, requests, costs }) {
  const { first, main, worker, load = 0 } = costs
  const workersEach = Math.max(1, Math.floor(cores / processes))
  const thread = kind => ({ kind, queue: [], left: 0, busy: 0 })
  const firstThread = thread('first')
  const loadThread = thread('load')
  const mains = Array.from({ length: processes }, () => thread('main'))
  const workers = Array.from({ length: processes }, () => Array.from({ length: workersEach }, () => thread('worker')))
  const threads = [firstThread, loadThread, ...mains, ...workers.flat()]
  const least = some => some.reduce((best, each) => (each.queue.length < best.queue.length ? each : best))
  // Half of the main thread's work comes before the run, half after it.
  const steps = [
    { cost: load, at: () => loadThread },
    { cost: main / 2, at: ({ process }) => mains[process] },
    // Where one process is all, it counts itself.
    { cost: processes > 1 ? first : 0, at: () => firstThread },
    { cost: worker, at: ({ process }) => least(workers[process]) },
    { cost: main / 2, at: ({ process }) => mains[process] },
  ].filter(({ cost }) => cost > 0)

  const settle = Math.floor(requests / 5)
  let [now, answered, from] = [0, 0, 0]
  const enter = request => {
    const { cost, at } = steps[request.step]
    const to = at(request)
    if (to.queue.push(request) === 1) to.left = cost
  }
  for (let index = 0; index < clients; index++) enter({ process: index % processes, step: 0 })
  while (answered < requests + settle) {
    const running = threads.filter(({ queue }) => queue.length > 0)
    const speed = Math.min(1, cores / running.length)
    const after = Math.min(...running.map(({ left }) => left))
    now += after / speed
    for (const each of running) {
      each.left -= after
      each.busy += after / speed
    }
    for (const each of running) {
      if (each.left > 1e-9) continue
      const request = each.queue.shift()
      const [next] = each.queue
      if (next !== undefined) each.left = steps[next.step].cost
      request.step++
      if (request.step === steps.length) {
        request.step = 0
        answered++
        if (answered === settle) {
          from = now
          for (const one of threads) one.busy = 0
        }
      }
      enter(request)
    }
  }
  const whole = now - from
  const busy = kind => {
    const some = threads.filter(each => each.kind === kind)
    return some.reduce((sum, each) => sum + each.busy, 0) / some.length / whole
  }
  return {
    perSecond: (requests / whole) * 1e6,
    busy: { first: busy('first'), main: busy('main'), worker: busy('worker') },
  }
}
