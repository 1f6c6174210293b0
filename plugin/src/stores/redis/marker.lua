-- A random value that Redis keeps beside the logs: another value, or none, means that it has lost its data.
-- The program puts this file in front of every script that looks at the marker.

-- Reads the marker, makes it `candidate` where there is none, and keeps it for at least `life` (ms).
local function marker(key, candidate, life)
  local value = redis.call('GET', key)
  if not value then
    redis.call('SET', key, candidate, 'PX', life)
    return candidate
  end
  if redis.call('PTTL', key) < life / 2 then redis.call('PEXPIRE', key, life) end
  return value
end
