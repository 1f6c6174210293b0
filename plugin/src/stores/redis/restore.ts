import type { Policy } from '../../policy.js'
import type { Connection } from './client.js'
import { redisKey, sliceUs } from './codec.js'
import { RESTORE, run } from './scripts.js'

/** The last known usage of one log. */
export interface Usage {
  readonly policy: Policy
  readonly used: number
}

/**
 * Writes the usage of the logs of one partition key (as it stands in Redis) after a loss of data: of what several
 * replicas write, the largest counts. Rejects where Redis gives no reply.
 */
export async function restore(
  connection: Connection,
  nameSpace: string,
  key: string,
  usage: readonly Usage[],
): Promise<void> {
  const keys = usage.flatMap(({ policy: { log } }) => [
    redisKey(nameSpace, key, log),
    redisKey(nameSpace, key, `~${log}`),
  ])
  const args = usage.flatMap(({ policy, used }) => [
    used,
    policy.windowMs * 1000,
    sliceUs(policy),
    policy.sliced ? 1 : 0,
  ])
  await run(connection, RESTORE, keys, args)
}
