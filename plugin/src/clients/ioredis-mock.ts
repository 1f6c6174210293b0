import { now } from '../clock.js'
import type { Connection } from '../stores/redis/client.js'
import * as lua from '../stores/redis/lua.js'
import { connectionOfAdapter } from './adapter.js'
import type { IoredisClient } from './ioredis.js'

/** Redis in the process, for tests. Its Lua needs some help; see `mock.lua`. */
export function connectionOfMock(client: IoredisClient): Connection {
  return connectionOfAdapter({
    status: 'ready',
    eval: (source, keys, args) => client.eval(helped(source), keys.length, ...keys, ...args, Math.floor(now() * 1000)),
    onReady: () => () => {},
  })
}

/** An error that a script returns is thrown, and a list is one for the mock only where its last entry was set first. */
function helped(source: string): string {
  return `${lua.mock}
local function script()
${source}
end
local reply = script()
if type(reply) ~= 'table' then return reply end
if reply.err then error(reply.err) end
local list = {}
for i = #reply, 1, -1 do list[i] = reply[i] end
return list`
}
