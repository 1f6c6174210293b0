/**
 * A request to any server: HTTP/1 or HTTP/2, with or without TLS, whatever its route, schema and logger. Every
 * `FastifyRequest` is one. It has none of Fastify's type parameters, so that a handler in a route's options has no part
 * in what TypeScript infers of the route.
 */
export interface AnyRequest {
  readonly id: string
  readonly ip: string
  readonly method: string
  readonly url: string
  readonly raw: object
}

/** Its reply. Every `FastifyReply` is one. */
export interface AnyReply {
  readonly raw: object
  readonly sent: boolean
  readonly statusCode: number
}
