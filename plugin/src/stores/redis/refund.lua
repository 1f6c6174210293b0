-- Gives cost back to logs, once however often the call is sent.
-- KEYS   [1] marker of this call · then per refund its log
-- ARGV   latest time to run at (µs of the Redis clock) · life of the marker (ms)
--        per refund: cost · window (µs) · slice (µs) · 1 if a slice shares an entry, and 2 more if the cost was taken ahead
--        and not used · generation and time of the admission, 0 and 0 for an operator's refund
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
  local flags, generation, made = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5]), tonumber(ARGV[at + 6])
  local ahead = ahead_of(slice, flags % 2 == 1)
  local problem = look(log, key, clock, window, ahead, true)
  if problem then
    if not is_foreign(problem) then return problem end
    reply[i] = -1
  elseif flags > 1 then
    reply[i] = give_back_ahead(key, log, clock, cost, window, ahead, generation, made)
  else
    reply[i] = give_back(key, log, cost, window, generation, made)
  end
end
return reply
