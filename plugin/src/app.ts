import { randomUUID } from 'node:crypto'
import type { FastifyInstance } from 'fastify'
import { AppName, programName } from './app-identity.js'
import type { RedisClient } from './clients/index.js'
import type { Connection } from './stores/redis/client.js'
import { Replicas } from './stores/redis/presence.js'

interface Presence {
  readonly redis: RedisClient
  readonly nameSpace: string
  readonly replicas: Replicas
  registrations: number
}

/** What all registrations of one app have in common. */
export class App {
  readonly name: AppName
  /** One replica, however many registrations and clients announce it. */
  readonly #id = randomUUID()
  /** Registrations so far, by prefix of their scope. */
  readonly #registrations = new Map<string, number>()
  readonly #presences = new Set<Presence>()

  constructor(root: FastifyInstance) {
    this.name = new AppName(programName(process.argv[1], process.cwd()), root.server)
    root.addHook('onClose', async () => this.name.release())
  }

  /** The number of a new registration among those of its scope, from 0. */
  enlist(prefix: string): number {
    const number = this.#registrations.get(prefix) ?? 0
    this.#registrations.set(prefix, number + 1)
    return number
  }

  /** The replicas that count in a name space of a Redis, and how a registration ends its part in announcing this one. */
  announce(
    redis: RedisClient,
    connection: Connection,
    nameSpace: string,
  ): { readonly replicas: Replicas; readonly withdraw: () => void } {
    let presence = [...this.#presences].find(known => known.redis === redis && known.nameSpace === nameSpace)
    if (presence === undefined) {
      const replicas = new Replicas(connection, nameSpace, this.#id, () => this.#dirty(nameSpace))
      presence = { redis, nameSpace, replicas, registrations: 0 }
      this.#presences.add(presence)
    }
    presence.registrations++
    return { replicas: presence.replicas, withdraw: () => this.#withdraw(presence) }
  }

  /** What all clients that announce this app in a name space say. */
  #dirty(nameSpace: string): readonly string[] {
    const presences = [...this.#presences].filter(known => known.nameSpace === nameSpace)
    return presences.flatMap(({ replicas }) => replicas.dirty)
  }

  #withdraw(presence: Presence): void {
    if (--presence.registrations > 0) return
    this.#presences.delete(presence)
    // Another client may announce this app to the same Redis.
    presence.replicas.close(![...this.#presences].some(({ nameSpace }) => nameSpace === presence.nameSpace))
  }
}

const apps = new WeakMap<object, App>()

/** By the root instance: an app that is built again may get the server of the one before. */
export function appOf(app: FastifyInstance): App {
  const root = rootOf(app)
  let known = apps.get(root)
  if (known === undefined) {
    known = new App(root)
    apps.set(root, known)
  }
  return known
}

/** A scope has the scope around it as its prototype. */
export function rootOf(app: FastifyInstance): FastifyInstance {
  const parent = Object.getPrototypeOf(app) as FastifyInstance | null
  return parent !== null && 'server' in parent ? rootOf(parent) : app
}
