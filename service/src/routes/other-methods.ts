/** What a known URL answers to a method it does not have, and an unknown URL to all: what there is instead. */
import type { FastifyInstance, HTTPMethods } from 'fastify'
import { type Fault, Refusal } from '../http/problem.js'

declare module 'fastify' {
  interface FastifyInstance {
    /** Methods of each URL that routes were made for so far, those that are refused included. */
    methodsByUrl: ReadonlyMap<string, ReadonlySet<string>>
    /** What people may ask for, as `POST /v1/predict`. */
    knownRoutes: readonly string[]
  }
}

/** Methods of routes that people are told of. */
const TOLD: readonly string[] = ['GET', 'POST', 'PATCH', 'DELETE']

/** Remembers the routes that are made from here on. */
export function rememberRoutes(app: FastifyInstance): void {
  const methodsByUrl = new Map<string, Set<string>>()
  const knownRoutes: string[] = []
  app.decorate('methodsByUrl', methodsByUrl)
  app.decorate('knownRoutes', knownRoutes)
  app.addHook('onRoute', ({ url, method }) => {
    // A list of methods is a route that refuses them.
    if (TOLD.includes(method as string)) knownRoutes.push(`${method} ${url}`)
    const methods = methodsByUrl.get(url) ?? new Set()
    methodsByUrl.set(url, methods)
    for (const each of [method].flat()) methods.add(each)
  })
}

/** Adds to each URL the methods that it lacks: OPTIONS tells which it has, the others are refused with 405. */
export function answerOtherMethods(app: FastifyInstance): void {
  for (const [url, methods] of [...app.methodsByUrl]) {
    const allow = [...methods, 'OPTIONS'].sort().join(', ')
    const others = app.supportedMethods.filter(method => !methods.has(method) && method !== 'OPTIONS')
    const refusal = {
      status: 405,
      code: 'METHOD_NOT_ALLOWED',
      detail: `this URL takes ${allow}`,
      headers: { allow },
      members: { allow: allow.split(', ') },
    }
    app.route({
      method: others as HTTPMethods[],
      url,
      config: { rateLimit: false },
      // Before a body is read.
      onRequest: async () => {
        throw new Refusal(refusal)
      },
      handler: () => {},
    })
    if (methods.has('OPTIONS')) continue
    app.route({
      method: 'OPTIONS',
      url,
      config: { rateLimit: false },
      onRequest: async (_request, reply) => reply.code(204).header('allow', allow).send(),
      handler: () => {},
    })
  }
}

/** Answers URLs that `app` has no route for with 404, without reading a body. `fault` is called when all routes are made. */
export async function answerUnknown(app: FastifyInstance, fault: () => Fault): Promise<void> {
  // Hooks of a context of its own, so that no request with a route runs them.
  await app.register(async unknown => {
    const refuse = async () => {
      throw new Refusal(fault())
    }
    unknown.addHook('onRequest', refuse)
    // For `callNotFound`, which runs no hooks.
    unknown.setNotFoundHandler(refuse)
  })
}

/** 404 with the routes there are. */
export const unknownUrl = ({ knownRoutes }: FastifyInstance): Fault => ({
  status: 404,
  code: 'NOT_FOUND',
  detail: 'there is no such URL; `routes` says which there are',
  members: { routes: knownRoutes.filter(route => !/ \/(?:v1\/admin|docs|playground|console)\//.test(route)) },
})
