-- Answers a list of checks against sliding windows, penalties and permits, one after the other: each is admitted by
-- all of its policies and charged to all, or denied and charged to none. A denial writes nothing but its penalty,
-- unless the clock has gone back. Permits that are given back come first.
-- KEYS   the sets of the permits given back, then per check: for each policy its log, and its penalty where the shape
--        has one; then its permits, if any; then for each policy that has one the log that holds its block
-- ARGV   latest time to run at (µs of the Redis clock, 0 for any) · number of permits given back · these permits
--        · number of shapes · the shapes · runs of equal checks
--        shape: operation (0 peek, 1 check, 2 charge, 3 grant) · penalty (0 none, 1 count, 2 renew, 3 backoff)
--               · permits allowed (−1 for no limit) · life of a permit (µs) · begin and end of the period of its budgets
--               (µs, 0 and 0 without) · number of policies
--               · per policy: limit · window (µs) · slice (µs, 0 for none) · 1 if a slice shares an entry, and 2 more
--                 if another log than its own holds its block, and 4 more if it is charged and denies nothing
--        run:   how many checks · number of their shape, from 1 · µs after the latest time that they may run
--               · cost for each policy; of a grant, whose checks are one, also: how many requests wait · how many more are
--               wanted ahead · by what the room is divided for these · µs in which they may be spent
-- Reply  time (µs), then per check: −1 where a key holds a foreign value, −2 when it was too late, −3 where a charge
--        would exceed what can be counted, −4 where it is another period now, else per policy: used · µs until more quota, negative where the key is
--        blocked, then followed by the µs until it is not · µs until this cost fits, or the negative generation of the
--        log where this cost was charged, then followed by the time of the admission · denials (with a penalty only)
--        · of a peek, units in entries dated ahead; with permits: in flight · number of the permit taken, 0 for
--        none, −1 if permits stood in the way.
--        A check was admitted when no policy has it wait and permits did not stand in the way.
--        Of a grant: requests admitted of those that wait · requests granted ahead, then per policy: used, these
--        included · µs until more quota, as above · µs until one more request fits, 0 where all that wait were admitted
--        · generation of the log · time of the admission, 0 where nothing was charged.

local time = call('TIME')
local clock = tonumber(time[1]) * 1000000 + tonumber(time[2])

local at = 0
local function take()
  at = at + 1
  return tonumber(ARGV[at])
end

local reply, size, key_at, latest = { clock }, 1, 0, take()

-- The first of them is a write that Redis refuses when memory is full. Without it, the writes that follow would not be
-- checked any more.
local refused
for i = 1, take() do
  at, key_at = at + 1, i
  if i == 1 then
    local answer = pcall('ZADD', KEYS[i], 'XX', '0', ARGV[at])
    if type(answer) == 'table' and string.find(answer.err, 'OOM', 1, true) then refused = answer end
  end
  pcall('ZREM', KEYS[i], ARGV[at])
end

local shapes = {}
for i = 1, take() do
  local shape = { op = take(), penalty = take(), permits = take(), life = take(), from = take(), till = take() }
  shape.apart = 0
  for j = 1, take() do
    local limit, window, slice, flags = min(take(), LARGEST), take(), take(), take()
    local shared, apart, decides = flags % 2 == 1, flags % 4 > 1, flags < 4
    shape[j] = { limit = limit, window = window, slice = slice, shared = shared, ahead = ahead_of(slice, shared), log = {} }
    shape[j].decides, shape[j].denials, shape[j].till = decides, 0, 0
    if apart then shape[j].apart, shape.apart = {}, shape.apart + 1 end
  end
  shapes[i] = shape
end

-- Fills in how often this policy has denied the key, and until when the key is blocked. Count: a log of its own.
-- Renew, backoff: 'denials in a row:end of the block:last denial'. Returns the error where the key holds something else.
local function look_at_penalty(policy, key, kind, op)
  policy.denials, policy.till = 0, 0
  if kind == 1 then
    policy.penalty = policy.penalty or {}
    local window = policy.window
    local problem = look(policy.penalty, key, clock, window, ahead_of(window / 100, true), op > 0)
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
  if op > 0 and last - clock > STEP then -- the clock has gone back, and the block with it
    till, last = till - last + clock, clock
    call('SET', key, string.format('%s:%d:%d', denials, till, last), 'PX', text((till - clock) / 1000 + 1))
  end
  if op == 0 then till = min(last + policy.window, till) end -- a peek sees the base window
  if till > clock then policy.denials, policy.till = tonumber(denials), till end
  return nil
end

-- Reads the log of a policy and the end of its block, which `place` holds where the log does not: sets `blocked`, in µs,
-- 0 or less without a block.
-- Returns the next place, and an error where a key holds something else.
local function look_at(policy, key, place, op)
  local problem = look(policy.log, key, clock, policy.window, policy.ahead, op > 0)
  if problem then return place, problem end
  if not policy.apart then
    policy.blocked = policy.log.block - policy.log.now
    return place, nil
  end
  problem = look(policy.apart, KEYS[place], clock, policy.window, policy.ahead, op > 0)
  if problem then return place, problem end
  policy.blocked = policy.apart.block - policy.apart.now
  return place + 1, nil
end

-- Records a denial, and starts the block that it costs.
local function penalise(policy, key, kind)
  policy.denials = policy.denials + 1
  if kind == 1 then
    append(key, policy.penalty, 1, policy.window, policy.window / 100, true, 0)
    return
  end
  local block = policy.window
  if kind == 3 then block = min(block * 2 ^ (policy.denials - 1), 9007199254740991000) end
  policy.till = clock + block
  -- Never shorter than the wait for the window. A penalty of a window that has changed is over with it.
  policy.wait = max(block, policy.blocked)
  call('SET', key, string.format('%d:%d:%d', policy.denials, policy.till, clock), 'PX', text(block / 1000))
end

-- Permits that were taken before the clock went back end as if they had been taken now; their holders renew them.
local function set_back_permits(key, life)
  local ahead = call('ZRANGEBYSCORE', key, '(' .. text(clock + life + STEP), '+inf')
  for _, permit in ipairs(ahead) do
    if tonumber(permit) > clock + STEP then
      call('ZADD', key, text(clock + life), permit)
      call('PEXPIRE', key, text(life / 1000 + 1))
    end
  end
end

local function answer(code)
  size = size + 1
  reply[size] = code
end

-- What is used, and when there is more: not before the key is unblocked.
local function answer_usage(policy, used, reset)
  local blocked = policy.blocked
  if blocked > 0 then
    reply[size + 3] = blocked
    reset = used < policy.limit and -blocked or -max(blocked, reset)
  end
  reply[size + 1], reply[size + 2] = used, reset
  size = size + (blocked > 0 and 3 or 2)
end

-- One check; `costs` by policy. Returns an error that concerns the whole store, if there is one.
local function check(shape, costs, late)
  local op, kind, permits, policies = shape.op, shape.penalty, shape.permits, #shape
  local admitted, in_flight, permit, problem, too_much = true, 0, 0, nil, false
  local step = kind > 0 and 2 or 1
  local first_key, permits_key = key_at, nil
  key_at = key_at + policies * step
  if permits >= 0 then
    key_at = key_at + 1
    permits_key = KEYS[key_at]
  end
  local place = key_at + 1
  key_at = key_at + shape.apart
  if late then return answer(-2) end
  -- A charge belongs to the period in which its request was admitted.
  if shape.till > 0 and op < 2 and (clock < shape.from or clock >= shape.till) then return answer(-4) end

  local at = first_key
  for i = 1, policies do
    local policy = shape[i]
    local log, key, waits = policy.log, KEYS[at + 1], 0
    place, problem = look_at(policy, key, place, op)
    if kind > 0 and policy.decides and not problem then problem = look_at_penalty(policy, KEYS[at + 2], kind, op) end
    if problem then break end
    local cost, limit, used = costs[i], policy.limit, log.total - log.base
    if op == 2 then
      if used + cost > LARGEST then too_much = true end
    else
      if used + cost > limit then waits = wait(key, log, cost, limit, policy.window) end
      if kind > 0 and policy.till > clock then waits = max(waits, policy.till - clock) end
      if policy.blocked > waits then waits = policy.blocked end
      if waits > 0 then admitted = false end
    end
    policy.wait = waits
    at = at + step
  end

  if permits_key and not problem then
    in_flight = pcall('ZCOUNT', permits_key, '(' .. text(clock), '+inf')
    if type(in_flight) == 'table' then
      problem = in_flight
    elseif in_flight >= permits and op < 2 then
      admitted, permit = false, -1
      if op == 1 then set_back_permits(permits_key, shape.life) end
    end
  end
  if problem then
    if not is_foreign(problem) then return problem end
    return answer(-1)
  end
  if too_much then return answer(-3) end
  if refused and admitted and op > 0 then return refused end

  at = first_key
  for i = 1, policies do
    local policy = shape[i]
    local log, window, waits, charged = policy.log, policy.window, policy.wait, false
    if not admitted then
      if waits > 0 and kind > 0 and op == 1 then
        penalise(policy, KEYS[at + 2], kind)
        waits = policy.wait
      end
    elseif op > 0 and costs[i] > 0 then
      append(KEYS[at + 1], log, costs[i], window, policy.slice, policy.shared or (op == 2 and policy.slice > 0), 0)
      charged = true
    end
    local used, reset = log.total - log.base, until_reset(log, window)
    if kind > 1 and policy.till > clock then used, reset = max(used, policy.limit), policy.till - clock end
    answer_usage(policy, used, reset)
    size = size + 1
    if charged then
      reply[size], reply[size + 1] = -log.generation, log.score
      size = size + 1
    else
      reply[size] = waits
    end
    if kind > 0 then answer(policy.denials) end
    if op == 0 then answer(units_ahead(KEYS[at + 1], log)) end
    at = at + step
  end
  if permits_key then
    if admitted and op == 1 then
      permit = clock
      while call('ZADD', permits_key, 'NX', text(clock + shape.life), text(permit)) == 0 do permit = permit + 1 end
      call('ZREMRANGEBYSCORE', permits_key, '-inf', text(clock))
      call('PEXPIRE', permits_key, text(shape.life / 1000 + 1))
      in_flight = in_flight + 1
    end
    answer(in_flight)
    answer(permit)
  end
  return nil
end

-- Admits the requests that wait, as many as there is room for, and takes more ahead: all policies have room for them, and
-- 1 in `share` of that room at most, so that near the limit nothing is taken ahead. What is taken ahead is dated at the
-- end of its life. Any window that holds a use of it holds its entry then: no window has more than the limit.
local function grant(shape, costs, waiting, wanted, share, life, late)
  local first_key, policies = key_at, #shape
  local place = first_key + policies + 1
  key_at = key_at + policies + shape.apart
  if late then return answer(-2) end
  local room = LARGEST
  for i = 1, policies do
    local policy = shape[i]
    local log, problem = policy.log, nil
    place, problem = look_at(policy, KEYS[first_key + i], place, 3)
    if problem then
      if not is_foreign(problem) then return problem end
      return answer(-1)
    end
    room = policy.blocked > 0 and 0 or min(room, floor((policy.limit - log.total + log.base) / costs[i]))
  end
  room = max(room, 0)
  local admitted = min(waiting, room)
  local ahead = min(wanted, floor((room - admitted) / share))
  if ahead < 2 then ahead, life = 0, 0 end
  local requests = admitted + ahead
  if refused and requests > 0 then return refused end
  answer(admitted)
  answer(ahead)
  for i = 1, policies do
    local policy, key = shape[i], KEYS[first_key + i]
    local log, window, waits = policy.log, policy.window, 0
    if requests > 0 then append(key, log, costs[i] * requests, window, policy.slice, policy.shared, life) end
    local used = log.total - log.base
    if admitted < waiting then
      if used + costs[i] > policy.limit then waits = wait(key, log, costs[i], policy.limit, window) end
      waits = max(waits, policy.blocked)
    end
    answer_usage(policy, used, until_reset(log, window))
    reply[size + 1] = waits
    reply[size + 2], reply[size + 3] = requests > 0 and log.generation or 0, requests > 0 and log.score or 0
    size = size + 3
  end
  return nil
end

local arguments, costs = #ARGV, {}
while at < arguments do
  local times, shape, later = take(), shapes[take()], take()
  local late = latest > 0 and clock > latest + later
  for i = 1, #shape do costs[i] = take() end
  if shape.op == 3 then
    local problem = grant(shape, costs, take(), take(), take(), take(), late)
    if problem then return problem end
  else
    for _ = 1, times do
      local problem = check(shape, costs, late)
      if problem then return problem end
    end
  end
end
return reply
