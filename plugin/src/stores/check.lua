-- Answers a list of checks against sliding windows, penalties and leases, one after the other: each is admitted by
-- all of its policies and charged to all, or denied and charged to none. A denial writes nothing but its penalty,
-- unless the clock has gone back.
-- KEYS   per check: for each policy its log, and its penalty where the shape has one; then its leases, if any
-- ARGV   latest time to run at (µs of this clock, 0 for any) · number of shapes · the shapes · runs of equal checks
--        shape: operation (0 peek, 1 check, 2 charge) · penalty (0 none, 1 count, 2 renew, 3 backoff)
--               · leases allowed (−1 for no limit) · life of a lease (µs) · number of policies
--               · per policy: limit · window (µs) · keep (µs) · slice (µs, 0 for none) · 1 if a slice shares an entry
--        run:   how many checks · number of their shape, from 1 · cost for each policy
-- Reply  time (µs); nothing else when it was too late. Per check: −1 where a key holds a foreign value, else
--        per policy: used · µs until more quota · µs until this cost fits · denials (with a penalty only);
--        with leases: in flight · number of the lease taken, 0 for none, −1 if leases stood in the way.
--        A check was admitted when no policy has it wait and leases did not stand in the way.

local time = call('TIME')
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
    shape[j] = { limit = take(), window = take(), keep = take(), slice = take(), shared = take() == 1, log = {} }
  end
  shapes[i] = shape
end

local reply, size, key_at = { now }, 1, 0

local function is_foreign(problem)
  return string.find(problem.err, 'WRONGTYPE', 1, true) ~= nil
end

-- Fills in how often the key was denied by this policy, and until when it is blocked. Count: a log of its own.
-- Renew, backoff: 'denials in a row:end of the block:last denial'. Returns the error where the key holds something else.
local function look_at_penalty(policy, key, kind, op)
  policy.denials, policy.till = 0, 0
  if kind == 1 then
    policy.penalty = policy.penalty or {}
    local problem = look(policy.penalty, key, now, policy.window, op > 0 and policy.window)
    if problem then return problem end
    policy.denials = policy.penalty.total - policy.penalty.base
    return nil
  end
  local value = pcall('GET', key)
  if not value then return nil end
  if value.err then return value end
  local denials, till, last = string.match(value, '^(%d+):(%d+):(%d+)$')
  till, last = tonumber(till), tonumber(last)
  if not till then return FOREIGN end
  if op > 0 and last - now > STEP then -- the clock has gone back, and the block with it
    till, last = till - last + now, now
    call('SET', key, string.format('%s:%d:%d', denials, till, last), 'PX', text((till - now) / 1000 + 1))
  end
  if op == 0 then till = min(last + policy.window, till) end -- asked without charging: the base window
  if till > now then policy.denials, policy.till = tonumber(denials), till end
  return nil
end

-- Writes a denial down, and starts the block that it costs.
local function penalise(policy, key, kind)
  policy.denials = policy.denials + 1
  if kind == 1 then
    append(key, policy.penalty, 1, policy.window, policy.window, policy.window / 100, true)
    return
  end
  local block = policy.window
  if kind == 3 then block = min(block * 2 ^ (policy.denials - 1), 9007199254740991000) end
  policy.till = now + block
  policy.wait = block -- never shorter than the wait for the window; a block of a window that has changed is over with it
  call('SET', key, string.format('%d:%d:%d', policy.denials, policy.till, now), 'PX', text(math.ceil(block / 1000)))
end

-- Leases that were taken before the clock went back end as if they had been taken now; their holders renew them.
local function set_back_leases(key, life)
  local ahead = call('ZRANGEBYSCORE', key, '(' .. text(now + life + STEP), '+inf')
  for _, lease in ipairs(ahead) do
    if tonumber(lease) > now + STEP then
      call('ZADD', key, text(now + life), lease)
      call('PEXPIRE', key, text(life / 1000 + 1))
    end
  end
end

-- One check; `costs` by policy. Returns an error that concerns the whole store, if there is one.
local function check(shape, costs)
  local op, kind, leases, policies = shape.op, shape.penalty, shape.leases, #shape
  local admitted, in_flight, lease, problem = true, 0, 0, nil
  local step = kind > 0 and 2 or 1
  local at = key_at
  key_at = at + policies * step

  for i = 1, policies do
    local policy = shape[i]
    local log, key, waits = policy.log, KEYS[at + 1], 0
    problem = look(log, key, now, policy.window, op > 0 and policy.keep)
    if kind > 0 and not problem then problem = look_at_penalty(policy, KEYS[at + 2], kind, op) end
    if problem then break end
    if op < 2 then
      local cost, limit = costs[i], policy.limit
      if log.total - log.base + cost > limit then waits = wait(key, log, cost, limit, policy.window) end
      if kind > 0 and policy.till > now then waits = max(waits, policy.till - now) end
      if waits > 0 then admitted = false end
    end
    policy.wait = waits
    at = at + step
  end

  local leases_key
  if leases >= 0 then
    key_at = key_at + 1
    leases_key = KEYS[key_at]
    if not problem then
      in_flight = pcall('ZCOUNT', leases_key, '(' .. text(now), '+inf')
      if type(in_flight) == 'table' then
        problem = in_flight
      elseif in_flight >= leases and op < 2 then
        admitted, lease = false, -1
        if op == 1 then set_back_leases(leases_key, shape.life) end
      end
    end
  end
  if problem then
    if not is_foreign(problem) then return problem end
    size = size + 1
    reply[size] = -1
    return nil
  end

  at = key_at - policies * step - (leases_key and 1 or 0)
  for i = 1, policies do
    local policy = shape[i]
    local log, window, waits = policy.log, policy.window, policy.wait
    if not admitted then
      if waits > 0 and kind > 0 and op == 1 then
        penalise(policy, KEYS[at + 2], kind)
        waits = policy.wait
      end
    elseif op > 0 and costs[i] > 0 then
      append(KEYS[at + 1], log, costs[i], window, policy.keep, policy.slice, policy.shared or (op == 2 and policy.slice > 0))
    end
    local used, oldest, reset = log.total - log.base, log.oldest, 0
    if oldest then
      reset = oldest + window - log.now
      if reset < 1 then reset = 1 elseif reset > window then reset = window end
    end
    if kind > 1 and policy.till > now then used, reset = max(used, policy.limit), policy.till - now end
    reply[size + 1], reply[size + 2], reply[size + 3] = used, reset, waits
    size = size + 3
    if kind > 0 then
      size = size + 1
      reply[size] = policy.denials
    end
    at = at + step
  end
  if leases_key then
    if admitted and op == 1 then
      lease = now
      while call('ZADD', leases_key, 'NX', text(now + shape.life), text(lease)) == 0 do lease = lease + 1 end
      call('ZREMRANGEBYSCORE', leases_key, '-inf', text(now))
      call('PEXPIRE', leases_key, text(shape.life / 1000 + 1))
      in_flight = in_flight + 1
    end
    reply[size + 1], reply[size + 2] = in_flight, lease
    size = size + 2
  end
  return nil
end

local arguments, costs = #ARGV, {}
while at < arguments do
  local times, shape = take(), shapes[take()]
  for i = 1, #shape do costs[i] = take() end
  for _ = 1, times do
    local problem = check(shape, costs)
    if problem then return problem end
  end
end
return reply
