-- Gives cost back to logs, the oldest entries first: what stays counted is as new as it can be.
-- KEYS   the logs
-- ARGV   per log: cost · window (µs)
-- Reply  cost given back, per log

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local reply, log = {}, {}
for i, key in ipairs(KEYS) do
  local cost, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local problem = look(log, key, now, window)
  if problem then return problem end
  local base = math.min(log.base + cost, log.total)
  reply[i] = base - log.base
  if log.size > 0 and base == log.total then
    redis.call('DEL', key)
  elseif base > log.base then
    redis.call('ZADD', key, '0', text(base)) -- the new base; where an entry ends just here, it becomes the base
    for _, member in ipairs(redis.call('ZRANGE', key, '0', '-1')) do
      if tonumber(member) < base then redis.call('ZREM', key, member) end
    end
  end
end
return reply
