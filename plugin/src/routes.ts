/** Which routes a registration limits, and how its limiters get into their hooks. */
import type { FastifyInstance, FastifyReply, FastifyRequest, HookHandlerDoneFunction, RouteOptions } from 'fastify'
import { rootOf } from './app.js'
import { isThenable } from './awaitable.js'
import { declaredRoutes } from './declared-routes.js'
import { InvalidOption, InvalidRouteConfig } from './errors.js'
import { guard } from './guard.js'
import type { Limiter } from './limiter.js'
import type { RateLimitHook, RateLimitOptions } from './options/table.js'
import type { Registration } from './registration.js'
import { urlOf } from './route-name.js'

type LimiterOf = (route: RouteOptions) => Limiter | undefined

/** Limits the routes of a scope, those that are declared later and those that were declared before. */
export function limitRoutes(app: FastifyInstance, registration: Registration): void {
  const limiterOf: LimiterOf = route => {
    const config = route.config?.rateLimit as unknown
    if (config === undefined || config === null) return registration.config.global ? registration.main : undefined
    if (config === false) return undefined
    if (typeof config !== 'object' || Array.isArray(config) || isThenable(config)) throw new InvalidRouteConfig()
    try {
      return registration.ofRoute(route, config as RateLimitOptions)
    } catch (error) {
      throw ofRoute(error, route)
    }
  }
  const limit = (route: RouteOptions): boolean => {
    const limiter = limiterOf(route)
    if (limiter !== undefined) attach(route, limiter)
    return limiter !== undefined
  }

  const earlier = declaredRoutes(app, rootOf(app))
  warnOf(app, (earlier ?? []).filter(limit).flatMap(namesOf))
  const mark = earlier === undefined ? limitUnknownRoutes(app, limiterOf, registration.config.global) : undefined
  app.addHook('onRoute', route => {
    limit(route)
    mark?.(route)
  })
}

/** A wrong option, with the route that has it: its declaration may be long over. */
function ofRoute(error: unknown, route: RouteOptions): unknown {
  if (error instanceof InvalidOption) error.message += `; route: ${namesOf(route).join(', ')}`
  return error
}

/** Puts the limiter behind the route's own handlers of its hook. */
function attach(route: RouteOptions, limiter: Limiter): void {
  const { hook } = limiter.config
  const handlers = route as unknown as Record<RateLimitHook, unknown>
  const own = handlers[hook]
  handlers[hook] = [...(Array.isArray(own) ? own : own === undefined || own === null ? [] : [own]), handler(limiter)]
}

function handler(limiter: Limiter) {
  if (limiter.config.hook !== 'preParsing') {
    return (request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction) =>
      run(limiter, request, reply, done)
  }
  return (request: FastifyRequest, reply: FastifyReply, _payload: unknown, done: HookHandlerDoneFunction) =>
    run(limiter, request, reply, done)
}

/** In the callback style, so that a decision that needs no waiting takes no turn of the event loop. */
function run(limiter: Limiter, request: FastifyRequest, reply: FastifyReply, done: HookHandlerDoneFunction): void {
  let denial: ReturnType<typeof guard>
  try {
    denial = guard(limiter, request, reply)
  } catch (error) {
    done(errorOf(error))
    return
  }
  if (isThenable(denial))
    denial.then(
      settled => done(settled as Error | undefined),
      error => done(errorOf(error)),
    )
  else done(denial as Error | undefined)
}

/** Fastify takes nothing at all for success: whatever was thrown, the request must not pass. */
function errorOf(thrown: unknown): Error {
  return (thrown || new Error(`the rate limit could not be checked: ${String(thrown)} was thrown`)) as Error
}

/**
 * Limits routes of an app that was created before this package was imported, so that their options are out of reach:
 * hooks of the scope look up the limiter of a route when it is asked for the first time. They run before the route's
 * own handlers of the same hook. Returns what marks a route that has its limiter in its own hooks.
 */
function limitUnknownRoutes(
  app: FastifyInstance,
  limiterOf: LimiterOf,
  everyRoute: boolean,
): ((route: RouteOptions) => void) | undefined {
  const printed = app.printRoutes({ commonPrefix: false })
  const names = printedNames(printed).filter(name => name.slice(name.indexOf(' ') + 1).startsWith(app.prefix))
  if (names.length === 0) return undefined
  if (everyRoute) warnOf(app, names)

  const known = Symbol('ml-api-rate-limiter.known')
  const limiters = new WeakMap<object, Limiter | undefined>()
  const limit = (
    hooks: readonly RateLimitHook[],
    request: FastifyRequest,
    reply: FastifyReply,
    done: HookHandlerDoneFunction,
  ) => {
    const { config, method, url } = request.routeOptions
    if (request.is404 || known in config) {
      done()
      return
    }
    let limiter: Limiter | undefined
    try {
      if (!limiters.has(config)) limiters.set(config, limiterOf({ config, method, url } as unknown as RouteOptions))
      limiter = limiters.get(config)
    } catch (error) {
      done(errorOf(error))
      return
    }
    if (limiter !== undefined && hooks.includes(limiter.config.hook)) run(limiter, request, reply, done)
    else done()
  }
  // The first thing after the route's own handlers of onRequest.
  app.addHook('preParsing', (request, reply, _payload, done) =>
    limit(['onRequest', 'preParsing'], request, reply, done as HookHandlerDoneFunction),
  )
  app.addHook('preValidation', (request, reply, done) => limit(['preValidation'], request, reply, done))
  app.addHook('preHandler', (request, reply, done) => limit(['preHandler'], request, reply, done))
  return route => {
    route.config = Object.assign({}, route.config, { [known]: true })
  }
}

/** `names`: of the form `GET /a`. The HEAD that Fastify adds to a GET goes without saying. */
function warnOf(app: FastifyInstance, names: readonly string[]): void {
  const own = names.filter(name => !(name.startsWith('HEAD ') && names.includes(name.replace('HEAD', 'GET'))))
  if (own.length === 0) return
  app.log.warn(
    `routes were declared before the rate limiter had loaded, and are limited too: ${[...new Set(own)].join(', ')}. ` +
      'Await the registration before routes are declared; config.rateLimit: false keeps a route from being limited',
  )
}

function namesOf(route: RouteOptions): string[] {
  return [route.method].flat().map(method => `${method} ${urlOf(route)}`)
}

/** The routes in a tree that Fastify printed: `├── ` before each, four characters deeper than the start of its URL. */
function printedNames(tree: string): string[] {
  const urls: string[] = []
  return tree.split('\n').flatMap(line => {
    const [, indent, part, methods] = /^((?:│ {3}| {4})*)[├└]── (.*) \(([A-Z, ]+)\)/.exec(line) ?? []
    if (indent === undefined) return []
    const depth = indent.length / 4
    const url = (urls[depth - 1] ?? '') + part
    urls.splice(depth, Infinity, url)
    return (methods as string).split(', ').map(method => `${method} ${url}`)
  })
}
