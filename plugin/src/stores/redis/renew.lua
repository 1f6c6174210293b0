-- Keeps leases alive for their holder. A lease that was lost with the store is taken again.
-- KEYS   the sets of leases
-- ARGV   life of a lease (µs) · per key: number of the lease

local time = redis.call('TIME')
local till = tonumber(time[1]) * 1000000 + tonumber(time[2]) + tonumber(ARGV[1])
for i, key in ipairs(KEYS) do
  redis.call('ZADD', key, till, ARGV[i + 1])
  redis.call('PEXPIRE', key, math.ceil(tonumber(ARGV[1]) / 1000) + 1)
end
return #KEYS
