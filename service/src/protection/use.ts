/** What is counted of a limited request once it was answered. */
import type { FastifyReply, FastifyRequest } from 'fastify'
import { ANONYMOUS, UNKNOWN, type UsageHolder } from '../usage/entry.js'
import type { UsageMeter } from '../usage/usage-meter.js'
import type { Identity } from './callers.js'

/** By what name the use of a caller is reported. */
export const holderOf = ({ keyId, owner }: Pick<Identity, 'keyId' | 'owner'>): UsageHolder =>
  keyId === undefined ? ANONYMOUS : { key: keyId, owner: owner ?? null }

/** For a hook on `onResponse`. A request whose caller has gone before it was answered is not counted. */
export function countUse(usage: UsageMeter) {
  return (request: FastifyRequest, reply: FastifyReply, done: () => void): void => {
    const { caller, refusedAs } = request
    if (reply.sent) {
      const holder = caller === null ? UNKNOWN : holderOf(caller.identity)
      const model = caller?.model ?? null
      if (refusedAs === null) usage.served(holder, model, caller?.servedRows ?? 0)
      else usage.refused(holder, model, refusedAs)
    }
    done()
  }
}
