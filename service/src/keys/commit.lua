-- Changes one record if it is still what the change was made from, and tells every replica.
-- KEYS   hash of the records by id · sorted set of ids by the revision of their last change, removed ones included
--        · sorted set of removed ids by revision · hash: epoch, revision, floor
-- ARGV   id · revision that the change was made from, 0 for a new record · the record, empty to remove it
--        · epoch that the replica knows, empty for none · epoch for a store without one · channel
--        · removed ids that are remembered at most
-- Reply  the new revision, -1 where the record is another one by now, -2 where the store is another one

local id, basis, record = ARGV[1], tonumber(ARGV[2]), ARGV[3]
local epoch = redis.call('HGET', KEYS[4], 'epoch')
if ARGV[4] ~= '' and epoch ~= ARGV[4] then return -2 end

local current = 0
if redis.call('HEXISTS', KEYS[1], id) == 1 then current = tonumber(redis.call('ZSCORE', KEYS[2], id)) end
if current ~= basis then return -1 end

if not epoch then redis.call('HSET', KEYS[4], 'epoch', ARGV[5]) end
local revision = redis.call('HINCRBY', KEYS[4], 'revision', 1)
redis.call('ZADD', KEYS[2], revision, id)
if record == '' then
  redis.call('HDEL', KEYS[1], id)
  redis.call('ZADD', KEYS[3], revision, id)
  -- Whoever has not read as far as a forgotten removal reads everything.
  if redis.call('ZCARD', KEYS[3]) > tonumber(ARGV[7]) then
    local oldest = redis.call('ZPOPMIN', KEYS[3])
    redis.call('ZREM', KEYS[2], oldest[1])
    redis.call('HSET', KEYS[4], 'floor', oldest[2])
  end
else
  redis.call('HSET', KEYS[1], id, record)
end
redis.call('PUBLISH', ARGV[6], revision)
return revision
