-- What has changed since a revision.
-- KEYS   as commit.lua
-- ARGV   epoch that the replica knows, empty for none · revision up to which it knows everything
-- Reply  epoch, empty where nothing was ever stored · revision · 1 where all records follow, 0 where only changes do
--        · then id, revision, and record (empty where it was removed), each after the other

local epoch = redis.call('HGET', KEYS[4], 'epoch') or ''
local meta = redis.call('HMGET', KEYS[4], 'revision', 'floor')
local revision, floor, known = tonumber(meta[1] or 0), tonumber(meta[2] or 0), tonumber(ARGV[2])
local whole = epoch ~= ARGV[1] or known > revision or known < floor
local reply = { epoch, revision, whole and 1 or 0 }
if not whole and known == revision then return reply end

local changed = redis.call('ZRANGEBYSCORE', KEYS[2], whole and '-inf' or '(' .. ARGV[2], '+inf', 'WITHSCORES')
for i = 1, #changed, 2 do
  local record = redis.call('HGET', KEYS[1], changed[i]) or ''
  if record ~= '' or not whole then
    local at = #reply
    reply[at + 1], reply[at + 2], reply[at + 3] = changed[i], tonumber(changed[i + 1]), record
  end
end
return reply
