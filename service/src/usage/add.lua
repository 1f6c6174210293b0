-- Adds a batch of usage, once however often it is sent.
-- KEYS   number of the last batch of the replica · then per entry: set of the keys of its day · hash of the key and day
-- ARGV   number of the batch · seconds that it is remembered · then per entry: key · owner, empty for none
--        · when it is forgotten (s since 1970) · number of fields · per field: name · what is added
-- Reply  1 where it was added, 0 where it had been before

local sequence = tonumber(ARGV[1])
if sequence <= tonumber(redis.call('GET', KEYS[1]) or '0') then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])

local at = 2
for i = 2, #KEYS, 2 do
  local key, owner, ends, fields = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], tonumber(ARGV[at + 4])
  at = at + 4
  redis.call('SADD', KEYS[i], key)
  redis.call('EXPIREAT', KEYS[i], ends)
  if owner ~= '' then redis.call('HSET', KEYS[i + 1], 'owner', owner) end
  for _ = 1, fields do
    redis.call('HINCRBY', KEYS[i + 1], ARGV[at + 1], ARGV[at + 2])
    at = at + 2
  end
  redis.call('EXPIREAT', KEYS[i + 1], ends)
end
return 1
