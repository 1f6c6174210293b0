import type { Connection } from '../stores/redis/client.js'

/** What is used of a client of Valkey GLIDE, single or cluster. It is connected as soon as it exists. */
export interface GlideClient {
  customCommand(args: string[]): Promise<unknown>
}

/** It connects again by itself, and tells nobody: what it does not answer opens the circuit, and a probe closes it. */
export function connectionOfGlide(client: GlideClient): Connection {
  return {
    get status() {
      return (client as { isClosed?: boolean }).isClosed === true ? 'closed' : 'ready'
    },
    isCluster: 'invokeScriptWithRoute' in client,
    connect: () => {},
    nodeOf: () => undefined,
    evalsha: (sha, keys, args) => send(client, ['EVALSHA', sha, ...scriptOf(keys, args)]),
    eval: (source, keys, args) => send(client, ['EVAL', source, ...scriptOf(keys, args)]),
    onReady: () => () => {},
  }
}

function scriptOf(keys: readonly string[], args: readonly (string | number)[]): string[] {
  return [`${keys.length}`, ...keys, ...args.map(String)]
}

/** How it names two errors of Redis, and how Redis does. */
const NAMES: readonly (readonly [string, string])[] = [
  ['NoScriptError', 'NOSCRIPT'],
  ['CrossSlot', 'CROSSSLOT'],
]

async function send(client: GlideClient, command: string[]): Promise<unknown> {
  try {
    return await client.customCommand(command)
  } catch (error) {
    const { message } = error as Error
    const name = NAMES.find(([name]) => message.includes(name))
    throw name === undefined ? error : new Error(`${name[1]} ${message}`, { cause: error })
  }
}
