/**
 * A store of your own, with the interface of `@fastify/rate-limit`: here a table in memory stands for a database. It
 * decides what a window is, so the exact sliding window is not to be had with it.
 *
 *   node examples/custom-store.js
 *
 *   curl -i 'localhost:3000/?[1-3]'        # 200 200 429, retry-after: 60
 *   curl -i 'localhost:3000/login?[1-2]'   # 200 429, x-ratelimit-limit: 1
 */
import Fastify from 'fastify'
import rateLimit from 'ml-api-rate-limiter'

/** In place of a database: rows of (id, count, end), counted up in one atomic step. */
class Table {
  #rows = new Map()

  async increment(id, timeWindow) {
    const row = await this.get(id)
    const next = { count: row.count + 1, end: row.count === 0 ? Date.now() + timeWindow : row.end }
    this.#rows.set(id, next)
    return next
  }

  async get(id) {
    const row = this.#rows.get(id)
    return row !== undefined && row.end > Date.now() ? row : { count: 0, end: Date.now() }
  }
}

const table = new Table()

class TableStore {
  #prefix

  /** The options of the registration; of the route besides, where `child` made it. */
  constructor({ routeInfo }) {
    this.#prefix = routeInfo === undefined ? 'all' : `${routeInfo.method} ${routeInfo.url}`
  }

  incr(key, callback, timeWindow) {
    this.#answer(table.increment(`${this.#prefix}:${key}`, timeWindow), callback)
  }

  read(key, callback) {
    this.#answer(table.get(`${this.#prefix}:${key}`), callback)
  }

  child(options) {
    return new TableStore(options)
  }

  #answer(row, callback) {
    row.then(({ count, end }) => callback(null, { current: count, ttl: end - Date.now() }), callback)
  }
}

const app = Fastify({ logger: true })

await app.register(rateLimit, { max: 2, timeWindow: '1 minute', store: TableStore })

app.get('/', async () => ({ hello: 'world' }))
app.get('/login', { config: { rateLimit: { max: 1 } } }, async () => ({ hello: 'you' }))

await app.listen({ port: Number(process.env.PORT ?? 3000) })
