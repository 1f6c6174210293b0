import { subscribe } from 'node:diagnostics_channel'
import type { FastifyInstance, RouteOptions } from 'fastify'

interface Declared {
  readonly scope: FastifyInstance
  /** The options that Fastify goes on reading until the app is ready. */
  readonly route: RouteOptions
}

/** By root instance. The apps are those of this process, so this stands at the level of the module. */
const declared = new WeakMap<object, Declared[]>()

// Fastify tells here of every app that is created. The hook notes the options of its routes and changes nothing, so
// that routes can be limited that were declared before the plugin had loaded.
subscribe('fastify.initialization', message => {
  const { fastify: root } = message as { readonly fastify: FastifyInstance }
  const routes: Declared[] = []
  declared.set(root, routes)
  root.addHook('onRoute', function (route) {
    routes.push({ scope: this, route })
  })
})

/**
 * The routes declared so far in a scope and the scopes inside it. Hooks that are put on them hold, until the app is
 * ready. Undefined where the app was created before this package was imported: its routes are not known.
 */
export function declaredRoutes(app: FastifyInstance, root: FastifyInstance): readonly RouteOptions[] | undefined {
  const inScope = ({ scope }: Declared) => scope === app || Object.prototype.isPrototypeOf.call(app, scope)
  return declared
    .get(root)
    ?.filter(inScope)
    .map(({ route }) => route)
}
