-- Forgets keys: logs, penalties and permits of one partition key.
-- KEYS   what to forget
-- ARGV   latest time to run at (µs of the Redis clock, 0 for any)
-- Reply  how many there were, −1 when it was too late
local time = redis.call('TIME')
local latest = tonumber(ARGV[1])
if latest > 0 and tonumber(time[1]) * 1000000 + tonumber(time[2]) > latest then return -1 end
local found = 0
for _, key in ipairs(KEYS) do found = found + redis.call('UNLINK', key) end
return found
