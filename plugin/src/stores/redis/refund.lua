-- Gives cost back to logs, once however often the call is sent.
-- KEYS   [1] marker of this call · then per refund its log
-- ARGV   latest time to run at (µs of the Redis clock) · life of the marker (ms)
--        per refund: cost · window (µs) · slice (µs) · 1 if a slice shares an entry
--        · generation and time of the admission, 0 and 0 for an operator's refund
-- Reply  time (µs), then the cost given back per refund, −1 where a key holds a foreign value. Nothing but the time
--        when it was too late. 'resent' in its place when the call has run before.

local time = call('TIME')
local clock = tonumber(time[1]) * 1000000 + tonumber(time[2])
if clock > tonumber(ARGV[1]) then return { clock } end
if not call('SET', KEYS[1], '1', 'NX', 'PX', ARGV[2]) then return { clock, 'resent' } end

local reply, log = { clock }, {}
for i = 2, #KEYS do
  local key, at = KEYS[i], (i - 2) * 6 + 2
  local cost, window, slice = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2]), tonumber(ARGV[at + 3])
  local problem = look(log, key, clock, window, ahead_of(slice, ARGV[at + 4] == '1'), true)
  if problem then
    if not string.find(problem.err, 'WRONGTYPE', 1, true) then return problem end
    reply[i] = -1
  else
    reply[i] = give_back(key, log, cost, window, tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6]))
  end
end
return reply
