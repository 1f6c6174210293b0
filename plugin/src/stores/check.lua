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
    shape[j] = { limit = take(), window = take(), keep = take(), slice = take(), shared = take() == 1, log = {} }
  end
  shapes[i] = shape
end

local reply, size, key_at = { now }, 1, 0
local function say(value)
  size = size + 1
  reply[size] = value
end

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
  local value = redis.pcall('GET', key)
  if not value then return nil end
  if value.err then return value end
  local denials, till, last = string.match(value, '^(%d+):(%d+):(%d+)$')
  till, last = tonumber(till), tonumber(last)
  if not till then return FOREIGN end
  if op > 0 and last - now > STEP then -- the clock has gone back, and the block with it
    till, last = till - last + now, now
    redis.call('SET', key, string.format('%s:%d:%d', denials, till, last), 'PX', text((till - now) / 1000 + 1))
  end
  if op == 0 then till = math.min(last + policy.window, till) end -- asked without charging: the base window
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
  if kind == 3 then block = math.min(block * 2 ^ (policy.denials - 1), 9007199254740991000) end
  policy.till = now + block
  policy.wait = block -- never shorter than the wait for the window; a block of a window that has changed is over with it
  redis.call('SET', key, string.format('%d:%d:%d', policy.denials, policy.till, now), 'PX', text(math.ceil(block / 1000)))
end

-- Leases that were taken before the clock went back end as if they had been taken now; their holders renew them.
local function set_back_leases(key, life)
  local ahead = redis.call('ZRANGEBYSCORE', key, '(' .. text(now + life + STEP), '+inf')
  for _, lease in ipairs(ahead) do
    if tonumber(lease) > now + STEP then
      redis.call('ZADD', key, text(now + life), lease)
      redis.call('PEXPIRE', key, text(life / 1000 + 1))
    end
  end
end

-- One check; `costs` by policy. Returns an error that concerns the whole store, if there is one.
local function check(shape, costs)
  local op, kind, policies = shape.op, shape.penalty, #shape
  local step = kind > 0 and 2 or 1
  local first, leases_key = key_at + 1, nil
  key_at = key_at + policies * step
  local admitted, in_flight, lease, problem = true, 0, 0, nil

  for i = 1, policies do
    local policy, key = shape[i], first + (i - 1) * step
    problem = look(policy.log, KEYS[key], now, policy.window, op > 0 and policy.keep)
    if not problem and kind > 0 then problem = look_at_penalty(policy, KEYS[key + 1], kind, op) end
    if problem then break end
    policy.wait = 0
    if op < 2 then
      local log, cost, limit = policy.log, costs[i], policy.limit
      if log.total - log.base + cost > limit then policy.wait = wait(KEYS[key], log, cost, limit, policy.window) end
      if kind > 0 and policy.till > now then policy.wait = math.max(policy.wait, policy.till - now) end
      if policy.wait > 0 then admitted = false end
    end
  end

  if shape.leases >= 0 then
    key_at = key_at + 1
    leases_key = KEYS[key_at]
    if not problem then
      in_flight = redis.pcall('ZCOUNT', leases_key, '(' .. text(now), '+inf')
      if type(in_flight) == 'table' then
        problem = in_flight
      elseif in_flight >= shape.leases and op < 2 then
        admitted, lease = false, -1
        if op == 1 then set_back_leases(leases_key, shape.life) end
      end
    end
  end
  if problem then
    if not is_foreign(problem) then return problem end
    say(-1)
    return nil
  end

  for i = 1, policies do
    local policy, key = shape[i], first + (i - 1) * step
    local log = policy.log
    if admitted and op > 0 then
      if costs[i] > 0 then
        append(KEYS[key], log, costs[i], policy.window, policy.keep, policy.slice,
          policy.shared or (op == 2 and policy.slice > 0))
      end
    elseif kind > 0 and op == 1 and policy.wait > 0 then
      penalise(policy, KEYS[key + 1], kind)
    end
    local used, reset = log.total - log.base, 0
    if log.oldest then reset = math.max(1, math.min(log.oldest + policy.window - log.now, policy.window)) end
    if kind > 1 and policy.till > now then used, reset = math.max(used, policy.limit), policy.till - now end
    say(used)
    say(reset)
    say(policy.wait)
    if kind > 0 then say(policy.denials) end
  end
  if leases_key then
    if admitted and op == 1 then
      lease = now
      while redis.call('ZADD', leases_key, 'NX', text(now + shape.life), text(lease)) == 0 do lease = lease + 1 end
      redis.call('ZREMRANGEBYSCORE', leases_key, '-inf', text(now))
      redis.call('PEXPIRE', leases_key, text(shape.life / 1000 + 1))
      in_flight = in_flight + 1
    end
    say(in_flight)
    say(lease)
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
