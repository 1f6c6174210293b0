-- Writes the usage of logs that were lost with the data of Redis. Each replica writes what it knows; of several, the
-- largest counts. Once or many times is the same.
-- KEYS   per log: the log, and its baseline: the largest usage that was written here since the loss
-- ARGV   per log: usage · window (µs) · slice (µs) · 1 if a slice shares an entry
-- Reply  time (µs), then per log what was charged, −1 where a key holds a foreign value

local clock = call('TIME')
clock = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local reply, log = { clock }, {}
for i = 1, #KEYS, 2 do
  local key, baseline, at = KEYS[i], KEYS[i + 1], (i - 1) * 2
  local usage, window = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local slice, shared = tonumber(ARGV[at + 3]), ARGV[at + 4] == '1'
  local problem = look(log, key, clock, window, ahead_of(slice, shared), true)
  local before = pcall('GET', baseline)
  if type(before) == 'table' then problem = before end
  if problem then
    if not is_foreign(problem) then return problem end
    reply[#reply + 1] = -1
  else
    local more = usage - (tonumber(before or 0) or 0)
    more = min(more, LARGEST - (log.total - log.base))
    if more > 0 then
      append(key, log, more, window, slice, slice > 0, 0)
      call('SET', baseline, text(usage), 'PX', text(window / 1000 + 1))
    end
    reply[#reply + 1] = max(more, 0)
  end
end
return reply
