-- Announce a replica, and tell how many there are and which of them it is.
-- KEYS   [1] replicas by the time their announcement expires (ms, Redis clock), [2] the same replicas, in the order of their ids
-- ARGV   id of the replica; how long the announcement holds (ms), 0 to take it back
-- Reply  number of replicas, and the place of this one among them, from 0 (-1 when it has taken itself out)
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local ttl = tonumber(ARGV[2])
if ttl > 0 then
  -- Where the clock has gone back, who does not announce itself again is gone in the usual time all the same.
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], string.format('(%d', now + ttl), '+inf')) do
    redis.call('ZADD', KEYS[1], now + ttl, id)
  end
  redis.call('ZADD', KEYS[1], now + ttl, ARGV[1])
  redis.call('ZADD', KEYS[2], 0, ARGV[1])
else
  redis.call('ZREM', KEYS[1], ARGV[1])
  redis.call('ZREM', KEYS[2], ARGV[1])
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('ZREM', KEYS[1], id)
  redis.call('ZREM', KEYS[2], id)
end
if ttl > 0 then
  redis.call('PEXPIRE', KEYS[1], ttl)
  redis.call('PEXPIRE', KEYS[2], ttl)
end
return { redis.call('ZCARD', KEYS[2]), redis.call('ZRANK', KEYS[2], ARGV[1]) or -1 }
