-- Announces a replica, and replies who is there.
-- KEYS   [1] ids of the replicas, by the time at which their announcement expires (ms, Redis clock)
--        [2] hash: what each replica has announced, by id, and the fields ~time, ~called and ~changed
--        [3] the marker of the data, see marker.lua
-- ARGV   id of the replica · how long the announcement holds (ms), 0 to withdraw it
--        · what it announces: the time of the last reply that it had got; then, a line each, the nodes of which not
--          everything that it admitted by itself is in Redis
--        · 1 to call upon all others to announce themselves again · the ~changed that it knows, 0 for none
--        · a new marker · how long it is kept (ms), 0 where nobody looks at it
-- Reply  time (µs), the latest call (µs), the last change of the list (µs), the marker; then, where ARGV knows another
--        change, for each replica its id and what it has announced
-- These times follow the Redis clock, and increase with every announcement, also when that clock goes back.
local id, ttl = ARGV[1], tonumber(ARGV[2])
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local alive, said = KEYS[1], KEYS[2]

local known = redis.call('HMGET', said, '~time', '~called', '~changed')
local time = math.max(clock[1] * 1000000 + clock[2], (tonumber(known[1]) or 0) + 1)
local called, changed = tonumber(known[2]) or 0, tonumber(known[3]) or 0

if ttl > 0 then
  -- Where the clock has gone back, a replica that is gone still expires in the usual time.
  for _, other in ipairs(redis.call('ZRANGEBYSCORE', alive, string.format('(%d', now + ttl), '+inf')) do
    redis.call('ZADD', alive, now + ttl, other)
  end
  if redis.call('ZADD', alive, now + ttl, id) > 0 then changed = time end
  redis.call('HSET', said, id, ARGV[3])
else
  redis.call('ZREM', alive, id)
  redis.call('HDEL', said, id)
  changed = time
end
for _, other in ipairs(redis.call('ZRANGEBYSCORE', alive, '-inf', now)) do
  redis.call('ZREM', alive, other)
  redis.call('HDEL', said, other)
  changed = time
end
if ttl == 0 then
  -- Expires as before. A key that is gone is not made again: it would never expire.
  if redis.call('EXISTS', said) == 1 then
    redis.call('HSET', said, '~time', string.format('%d', time), '~changed', string.format('%d', changed))
  end
  return { time }
end
if ARGV[4] == '1' then called = time end
redis.call('HSET', said, '~time', string.format('%d', time), '~called', string.format('%d', called),
  '~changed', string.format('%d', changed))
redis.call('PEXPIRE', alive, ttl)
redis.call('PEXPIRE', said, ttl)

local life = tonumber(ARGV[7])
local reply = { time, called, changed, life > 0 and marker(KEYS[3], ARGV[6], life) or '' }
if tonumber(ARGV[5]) ~= changed then
  for _, other in ipairs(redis.call('ZRANGE', alive, '0', '-1')) do
    reply[#reply + 1] = other
    reply[#reply + 1] = redis.call('HGET', said, other) or ''
  end
end
return reply
