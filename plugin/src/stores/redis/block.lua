-- Blocks a partition key: denies it whatever its usage, for a time. Another block replaces the one before.
-- KEYS   the logs that hold its blocks
-- ARGV   latest time to run at (µs of the Redis clock) · how long (µs) · per log its window (µs)
-- Reply  how many there were, −1 when it was too late, −2 where a key holds a foreign value: then nothing has changed

local time = call('TIME')
local clock = tonumber(time[1]) * 1000000 + tonumber(time[2])
if clock > tonumber(ARGV[1]) then return -1 end
local logs = {}
for i, key in ipairs(KEYS) do
  local log = {}
  -- Quota that replicas took ahead is dated so far ahead at most.
  local problem = look(log, key, clock, tonumber(ARGV[i + 2]), 1000000, true)
  if problem then
    if not is_foreign(problem) then return problem end
    return -2
  end
  logs[i] = log
end
for i, key in ipairs(KEYS) do block(key, logs[i], tonumber(ARGV[2]), tonumber(ARGV[i + 2])) end
return #KEYS
