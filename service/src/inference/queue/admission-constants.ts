/**
 * Every constant of admission, with its unit and its reason. Those that depend on what a service is for are settings:
 * `ADMISSION`, `ADMISSION_WAIT_MS`, `ADMISSION_DELAY_MS`, `QUEUE_MAX` and `REQUEST_TIMEOUT_MS`.
 */

/** The estimate of when a request would be answered. */
export const deadline = {
  /** Factor on the estimate: the next runs may take longer than the last ones did. */
  safety: 1.2,
  /** A request that has too little time for a run of an idle model is run all the same once per so many milliseconds, since only a run can correct the estimate. */
  retryMs: 1000,
} as const

/** The limit of rows under way, found by a gradient controller. See `adaptive-limit.ts`. */
export const limit = {
  /** Rows: where the limit starts, and its maximum. More than any queue is for. */
  mostRows: 16_384,
  /** A request may be under way for so many times its run: one runs while another waits, so that no worker idles. */
  tolerance: 2,
  /** Besides, it may wait this part of the time that its caller gives, so that bursts are taken … */
  waitPart: 1 / 8,
  /** … and at most so many milliseconds of it (`ADMISSION_WAIT_MS`). */
  mostWaitMs: 250,
  /** A request is never meant to be under way for more than this part of the time that its caller gives. */
  mostPart: 1 / 2,
  /** Milliseconds between two changes of the limit. */
  windowMs: 100,
  /** Samples that a window needs, unless it takes `slowWindowMs` to get them. */
  enoughSamples: 8,
  slowWindowMs: 1000,
  /** Lowest factor of one change, so that one slow window does not close the queue. */
  lowestGradient: 0.5,
  /** The queue shrinks by itself where this part of what was answered, beside what left at once, was not followed by more. */
  drainingPart: 0.2,
  /** Runs that may always be under way for each worker: one that runs and one that waits. */
  runsPerWorker: 2,
} as const

/** When a waiting request is stale: its caller has probably given up, so fresh ones go first. */
export const stale = {
  /** So many times what a request is meant to be under way … */
  targets: 2,
  /** … and this part of the time that it was given. */
  givenPart: 0.85,
  /** Milliseconds that a request counts as given at most, for those that give more or any time. */
  mostGivenMs: 5000,
} as const

/** How callers of one priority share a model. See `request-queue.ts`. */
export const fairness = {
  /** Time constant, in milliseconds, by which served rows are forgotten: long enough to see who asks more, short enough that nobody pays for long for what ran while nobody else asked. */
  memoryMs: 2000,
} as const

/** When refused callers are told to come back. See `come-back.ts`. */
export const comeBack = {
  /** Part of the workers' time that is meant for those who come back: others come for the first time meanwhile. */
  part: 0.33,
  /** Milliseconds that anybody is asked to wait at most. */
  mostMs: 10_000,
  /** Time constant, in milliseconds, of the rate of refusals. */
  memoryMs: 100,
} as const

/** Runs that nobody waits for: those of a shadow version. */
export const background = {
  /** Requests of this priority run only while no other request waits for the worker, of any model. Below that of any plan. */
  priority: -1_000_000,
} as const

/** The queue and its timers. */
export const queue = {
  /** Milliseconds between two looks for callers that have gone, while anything waits. */
  watchMs: 50,
  /** Milliseconds between two looks for expired requests in a queue that stays full. */
  fullSweepMs: 10,
} as const

/** The gate in front of the body, which keeps the main thread from drowning. See `protection/gate.ts`. */
export const gate = {
  /** Milliseconds between two changes of its limit, and between two looks at the event loop. */
  windowMs: 100,
  tickMs: 10,
  /** Milliseconds that a turn of the event loop may be late: every request waits for one or two turns (`ADMISSION_DELAY_MS`). */
  delayMs: 15,
  /** Additive increase in requests, multiplicative decrease. */
  increase: 8,
  decrease: 0.8,
  /** Requests that may always be inside: fewer would not fill the main thread. */
  fewest: 32,
  /** Above so many requests the limit is off: no process has more sockets. */
  most: 65_536,
  /** More is asked than this many times what was answered in the window: else the callers do not cause the delay. */
  excess: 1.5,
  /** A delay that lasts less than this part of the time that a caller gives is a burst, which is answered in time. */
  burstPart: 1 / 5,
  /** Milliseconds that such a delay may last at most, however much time callers give: probes wait as well. */
  mostBurstMs: 1000,
  /** Milliseconds after an answer in which the service counts as serving: its main thread is then not for refusals alone. */
  servingMs: 1000,
  /** Milliseconds that callers refused here are asked to wait: at least, and at most so many more, by chance. */
  backMs: 1000,
  backSpreadMs: 4000,
} as const
