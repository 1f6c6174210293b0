-- Answers a list of checks against sliding windows, penalties and leases, one after the other: each is admitted by
-- all of its policies and charged to all, or denied and charged to none. A denial writes nothing but its penalty.
-- KEYS   per check: for each policy its log, and its penalty where the shape has one; then its leases, if any
-- ARGV   latest time to run at (µs of this clock, 0 for any) · number of shapes · the shapes · the checks
--        shape: operation (0 peek, 1 check, 2 charge) · penalty (0 none, 1 count, 2 renew, 3 backoff)
--               · leases allowed (−1 for no limit) · life of a lease (µs) · number of policies
--               · per policy: limit · window (µs) · keep (µs) · slice (µs, 0 for none) · 1 if a slice shares an entry
--        check: number of its shape, from 1 · cost for each policy
-- Reply  time (µs); nothing else when it was too late. Per check: 1 admitted, 0 denied, −1 foreign value; unless −1,
--        per policy: used · µs until more quota · µs until this cost fits · denials (with a penalty only);
--        with leases: in flight · number of the lease taken, 0 for none, −1 if leases stood in the way

local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local latest = tonumber(ARGV[1])
if latest > 0 and now > latest then return { now } end

local at = 2
local function take()
  at = at + 1
  return tonumber(ARGV[at])
end

local shapes = {}
for i = 1, tonumber(ARGV[2]) do
  local shape = { op = take(), penalty = take(), leases = take(), life = take() }
  for j = 1, take() do
    shape[j] = { limit = take(), window = take(), keep = take(), slice = take(), shared = take() == 1 }
  end
  shapes[i] = shape
end

-- Denials so far, and until when they block. Count: a log of its own. Renew, backoff: 'denials in a row:end of block'.
local function penalty_of(key, kind, window, op)
  if kind == 1 then
    local log = look(key, now, window)
    return { log = log, err = log.err, denials = log.err and 0 or log.total - log.base, till = 0 }
  end
  local value = redis.pcall('GET', key)
  if not value then return { denials = 0, till = 0 } end
  if type(value) == 'table' then return value end
  local denials, till, last = string.match(value, '^(%d+):(%d+):(%d+)$')
  denials, till = tonumber(denials), tonumber(till)
  if op == 0 then till = tonumber(last) + window end -- asked without charging: the base window
  if till <= now then return { denials = 0, till = 0 } end
  return { denials = denials, till = till }
end

-- Writes a denial down. Returns the number of denials that count, and until when the block lasts.
local function penalise(key, kind, window, penalty)
  if kind == 1 then
    append(key, penalty.log, 1, window, window, window / 100, true)
    return penalty.denials + 1, 0
  end
  local denials, block = penalty.denials + 1, window
  if kind == 3 then block = math.min(window * 2 ^ (denials - 1), 9007199254740991000) end
  local value = string.format('%d:%.0f:%.0f', denials, now + block, now)
  redis.call('SET', key, value, 'PX', string.format('%.0f', math.ceil(block / 1000)))
  return denials, now + block
end

local reply, key_at = { now }, 0
while at < #ARGV do
  local shape = shapes[take()]
  local op, kind = shape.op, shape.penalty
  local admitted, foreign, found = 1, false, {}

  for i, policy in ipairs(shape) do
    local cost = take()
    local key = KEYS[key_at + 1]
    key_at = key_at + 1
    local log = look(key, now, policy.window)
    local item = { key = key, log = log, cost = cost, wait = 0, denials = 0, till = 0 }
    if kind > 0 then
      key_at = key_at + 1
      item.penalty_key = KEYS[key_at]
      item.penalty = penalty_of(item.penalty_key, kind, policy.window, op)
      if item.penalty.err then log = item.penalty end
    end
    if log.err then
      if not string.find(log.err, 'WRONGTYPE', 1, true) then return log end
      foreign = true
    elseif op < 2 then
      if log.total - log.base + cost > policy.limit then item.wait = wait(key, log, cost, policy.limit, policy.window) end
      if kind > 0 then
        item.denials = item.penalty.denials
        if item.penalty.till > now then
          item.till = item.penalty.till
          item.wait = math.max(item.wait, item.till - now)
        end
      end
      if item.wait > 0 then admitted = 0 end
    end
    found[i] = item
  end

  local leases_key, in_flight, lease = nil, 0, 0
  if shape.leases >= 0 then
    key_at = key_at + 1
    leases_key = KEYS[key_at]
    in_flight = redis.pcall('ZCOUNT', leases_key, '(' .. string.format('%.0f', now), '+inf')
    if type(in_flight) == 'table' then
      if not string.find(in_flight.err, 'WRONGTYPE', 1, true) then return in_flight end
      foreign = true
    elseif in_flight >= shape.leases and op < 2 then
      admitted, lease = 0, -1
    end
  end

  if foreign then
    reply[#reply + 1] = -1
  else
    reply[#reply + 1] = admitted
    for i, policy in ipairs(shape) do
      local item = found[i]
      local log = item.log
      if admitted == 1 and op > 0 and item.cost > 0 then
        append(item.key, log, item.cost, policy.window, policy.keep, policy.slice,
          policy.shared or (op == 2 and policy.slice > 0))
      elseif op == 1 and kind > 0 and item.wait > 0 then
        item.denials, item.till = penalise(item.penalty_key, kind, policy.window, item.penalty)
        item.wait = math.max(item.wait, item.till - now)
      end
      local used, reset = log.total - log.base, 0
      if log.oldest then reset = math.max(1, math.min(log.oldest + policy.window - log.now, policy.window)) end
      if item.till > now then used, reset = math.max(used, policy.limit), item.till - now end
      reply[#reply + 1] = used
      reply[#reply + 1] = reset
      reply[#reply + 1] = item.wait
      if kind > 0 then reply[#reply + 1] = item.denials end
    end
    if leases_key then
      if admitted == 1 and op == 1 then
        lease = now
        while redis.call('ZADD', leases_key, 'NX', now + shape.life, lease) == 0 do lease = lease + 1 end
        redis.call('ZREMRANGEBYSCORE', leases_key, '-inf', now)
        redis.call('PEXPIRE', leases_key, math.ceil(shape.life / 1000) + 1)
        in_flight = in_flight + 1
      end
      reply[#reply + 1] = in_flight
      reply[#reply + 1] = lease
    end
  end
end
return reply
