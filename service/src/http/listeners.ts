/**
 * Listening on every address of a host. `localhost` has one of IPv4 and one of IPv6. Fastify would make a second server for
 * the second one: nothing watches that server, and a stop does not wait for its requests. Here each further address has a
 * plain listener, which hands its connections to the one HTTP server. So whatever holds for connections of that server
 * (the front, time limits, `MAX_CONNECTIONS`, the stop) holds for all of them.
 */
import { lookup } from 'node:dns/promises'
import type { Server } from 'node:http'
import { type AddressInfo, createServer, isIPv6, type Server as NetServer } from 'node:net'
import type { FastifyInstance } from 'fastify'

/** The addresses to listen on, at least one. Of all other hosts the system chooses one. */
export async function addressesOf(host: string): Promise<readonly string[]> {
  if (host !== 'localhost') return [host]
  const found = await lookup(host, { all: true }).catch(() => [])
  // IPv4 first: some systems name an address of IPv6 that they do not have.
  const addresses = found.sort((a, b) => a.family - b.family).map(({ address }) => address)
  return addresses.length === 0 ? ['127.0.0.1'] : [...new Set(addresses)]
}

export const urlOf = (address: string, port: number): string =>
  `http://${isIPv6(address) ? `[${address}]` : address}:${port}`

/** Errors of an address that this system does not have. */
const ABSENT: readonly unknown[] = ['EADDRNOTAVAIL', 'EAFNOSUPPORT']

export class FurtherListeners {
  readonly #server: Server
  readonly #open = new Set<Promise<void>>()
  readonly #listeners: NetServer[] = []

  /** `server` gets all connections. */
  constructor(server: Server) {
    this.#server = server
  }

  /**
   * Listens on these addresses too, on the port of the server, and gives the URLs of those that can be had. `log` tells of
   * an address whose port is taken.
   */
  async listen(addresses: readonly string[], log: Pick<FastifyInstance['log'], 'warn'>): Promise<string[]> {
    const { port } = this.#server.address() as AddressInfo
    const urls: string[] = []
    for (const address of addresses) {
      const url = urlOf(address, port)
      try {
        await this.#listen(address, port)
        urls.push(url)
      } catch (error) {
        if (ABSENT.includes((error as NodeJS.ErrnoException).code)) continue
        log.warn({ err: error }, `the service does not listen on ${url}`)
      }
    }
    return urls
  }

  async #listen(address: string, port: number): Promise<void> {
    // As Node's HTTP server has it.
    const listener = createServer({ allowHalfOpen: true, noDelay: true }, socket => {
      this.#server.emit('connection', socket)
    })
    await new Promise<void>((resolve, reject) => {
      listener.once('error', reject)
      listener.listen({ host: address, port }, () => {
        listener.off('error', reject)
        resolve()
      })
    })
    this.#listeners.push(listener)
  }

  /** Takes no more connections. */
  stop(): void {
    for (const listener of this.#listeners.splice(0)) {
      this.#open.add(new Promise<void>(resolve => listener.close(() => resolve())))
    }
  }

  /** Resolves when all connections that were taken have ended. */
  async ended(): Promise<void> {
    this.stop()
    await Promise.all(this.#open)
  }
}

/** Listens on these addresses, and resolves with the URL of the first. `said`: what the log says of each URL. */
export type Listen = (addresses: readonly string[], port: number, said: (url: string) => string) => Promise<string>

/** How an app listens. To be called before it is ready. Its stop takes further connections into account. */
export function listenerOf(app: FastifyInstance): Listen {
  const further = new FurtherListeners(app.server)
  app.addHook('preClose', done => {
    further.stop()
    done()
  })
  app.addHook('onClose', () => further.ended())
  return async ([host, ...others], port, said) => {
    const main = await app.listen({ host: host as string, port, listenTextResolver: said })
    for (const url of await further.listen(others, app.log)) app.log.info(said(url))
    return main
  }
}
