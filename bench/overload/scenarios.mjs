/**
 * Two models of different weight. `rowMs`: what a row takes alone. `deadlineMs`: what an answer is worth nothing after.
 * `leastAt10`: the share of the capacity that must be left at ten times the capacity.
 */
export const scenarios = {
  heavy: {
    title: 'a model of 10 ms a row or more, answers wanted within 500 ms',
    model: { rowMs: 12, channels: 256 },
    deadlineMs: 500,
    leastAt10: 0.9,
  },
  light: {
    title: 'a model of about 1 ms a row, answers wanted within 200 ms',
    model: { rowMs: 1, channels: 128 },
    deadlineMs: 200,
    leastAt10: 0.75,
  },
}

/** What is offered, in multiples of the capacity that was measured. */
export const LOADS = [0.5, 1, 2, 5, 10]

/** `fresh`: started anew for each load, since it is long busy with what nobody waits for any more. */
export const contenders = {
  protected: { title: 'the service', module: 'service.mjs', fresh: false },
  unprotected: { title: 'Fastify, `session.run` on the main thread', module: 'naive.mjs', fresh: true },
}
