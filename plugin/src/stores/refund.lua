-- Gives cost back to logs, the oldest entries first: what stays counted is as new as it can be.
-- KEYS   the logs
-- ARGV   per log: cost · window (µs)
-- Reply  cost given back, per log

local time = call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local reply, log = {}, {}
for i, key in ipairs(KEYS) do
  local cost, window = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local problem = look(log, key, now, window)
  if problem then return problem end
  local base = min(log.base + cost, log.total)
  reply[i] = base - log.base
  if log.summary and base == log.total then
    call('DEL', key)
  elseif base > log.base then
    local entries, at = call('ZRANGE', key, '0', '-2', 'WITHSCORES'), 1
    while tonumber(entries[at]) <= base do at = at + 2 end
    local first = tonumber(entries[at + 1])
    call('ZADD', key, '+inf', summary(tonumber(log.kept), first, base))
    call('ZREM', key, log.summary)
    call('ZREMRANGEBYSCORE', key, '-inf', '(' .. text(first))
  end
end
return reply
