-- Gives permits back.
-- KEYS   the sets of permits
-- ARGV   the permit to take out of each
for i, key in ipairs(KEYS) do redis.call('ZREM', key, ARGV[i]) end
return #KEYS
