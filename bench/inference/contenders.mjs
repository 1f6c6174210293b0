/** What is measured: modules that answer `POST /v1/predict`, each in a process of its own. */
export const contenders = {
  parse: {
    title: 'Fastify, only parses and answers the same bytes',
    module: 'parse.mjs',
  },
  naive: {
    title: 'Fastify, `session.run` on the main thread',
    module: 'naive.mjs',
  },
  ours: {
    title: 'the service',
    module: 'service.mjs',
  },
  'ours-redis': {
    title: 'the service, limits in Redis',
    module: 'service.mjs',
    redis: true,
  },
}
