/** Who did what with the admin token, as lines of the log. */
import type { FastifyRequest } from 'fastify'

/** Names of events are for those who search logs, and stay. */
export type AuditEvent =
  | ('key.create' | 'key.patch' | 'key.rotate' | 'key.delete')
  | ('models.reload' | 'model.load' | 'model.unload')

/** Says that something was done. `details`: never a key, its digest or a token. */
export function audit(request: FastifyRequest, event: AuditEvent, details: object): void {
  request.log.info({ audit: { event, actor: 'admin', ip: request.ip, ...details } }, `audit: ${event}`)
}
