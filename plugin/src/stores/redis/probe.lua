-- Shows that this server takes writes.
-- KEYS   [1] a key of the program's own
return redis.call('SET', KEYS[1], '1', 'PX', '1')
