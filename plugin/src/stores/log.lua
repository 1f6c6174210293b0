-- The log of one policy and one key: a sorted set. Score = admission time (µs of the Redis clock, strictly
-- increasing), member = running total of cost. Rank 0 is the base: the newest entry that has left the window, or a
-- zero where none has; it is subtracted and never counted. used = total of the last entry − total of the base.
-- The program puts this file in front of every script that touches logs.

-- Looks at a log and writes nothing. Times and windows in µs.
-- Returns a table, or the error (a table with `err`) where the key holds something else.
local function look(key, now, window)
  local head = redis.pcall('ZRANGE', key, 0, 2, 'WITHSCORES')
  if head.err then return head end
  local size = #head
  if size == 0 then return { now = now, edge = now - window, size = 0, total = 0, base = 0, stale = 0 } end
  local tail = head
  if size == 6 then tail = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES') end
  local member, last = tail[#tail - 1], tonumber(tail[#tail])
  local total = tonumber(member)
  local t = now
  if last >= t then t = last + 1 end -- the clock stood still or went back: time goes on from the last entry
  local edge = t - window
  local log = { now = t, edge = edge, size = size, total = total, last = last, member = member }
  if last <= edge then
    log.base, log.stale = total, redis.call('ZCARD', key) - 1
    return log
  end
  log.base, log.stale = tonumber(head[1]), 0
  for i = 3, size, 2 do
    local score = tonumber(head[i + 1])
    if score > edge then
      log.oldest = score
      return log
    end
    log.base, log.stale = tonumber(head[i]), log.stale + 1
  end
  if size == 6 then -- more has left the window than the first entries show
    local left = redis.call('ZCOUNT', key, '-inf', edge)
    local around = redis.call('ZRANGE', key, left - 1, left, 'WITHSCORES')
    log.base, log.stale, log.oldest = tonumber(around[1]), left - 1, tonumber(around[4])
  end
  return log
end

-- µs until `cost` fits under `limit`; 0 when it fits now, the window when it never will.
local function wait(key, log, cost, limit, window)
  local must_leave = log.total + cost - limit
  if log.base >= must_leave then return 0 end
  if cost > limit then return window end
  local low, high = log.stale + 1, redis.call('ZCARD', key) - 1
  local at = log.oldest
  while low < high do -- totals rise with rank: halve until the first that is large enough
    local middle = math.floor((low + high) / 2)
    if tonumber(redis.call('ZRANGE', key, middle, middle)[1]) >= must_leave then high = middle else low = middle + 1 end
  end
  if low > log.stale + 1 then at = tonumber(redis.call('ZRANGE', key, low, low, 'WITHSCORES')[2]) end
  return math.max(1, math.min(at + window - log.now, window))
end

-- Makes one of all entries of a slice, where charges or a changed quota have let the set grow. Rank 0 stays.
local function compact(key, slice)
  local all = redis.call('ZRANGE', key, 1, -1, 'WITHSCORES')
  for i = 1, #all - 2, 2 do
    if math.floor(tonumber(all[i + 1]) / slice) == math.floor(tonumber(all[i + 3]) / slice) then
      redis.call('ZREM', key, all[i])
    end
  end
end

-- Charges `cost`. The first write is the one that grows, so that `maxmemory` is respected.
-- slice: µs, 0 for none; shared: whether entries of a slice become one; keep: µs for which the log is of use.
-- Brings the log up to date: its total and its oldest entry.
local function append(key, log, cost, window, keep, slice, shared)
  local total = log.total + cost
  if log.size == 0 then
    redis.call('ZADD', key, 0, 0, log.now, total)
  else
    redis.call('ZADD', key, log.now, total)
    local stale = log.stale
    if keep > window then stale = redis.call('ZCOUNT', key, '-inf', log.now - keep) - 1 end
    if shared and log.size > 2 and log.last > log.edge
      and math.floor(log.last / slice) == math.floor(log.now / slice) then
      redis.call('ZREM', key, log.member)
      if log.oldest == log.last then log.oldest = log.now end
    elseif stale <= 0 and slice > 0 and redis.call('ZCARD', key) > 127 then
      compact(key, slice)
    end
    if stale > 0 then redis.call('ZREMRANGEBYRANK', key, 0, stale - 1) end
  end
  redis.call('PEXPIRE', key, math.ceil(keep / 1000) + 1)
  log.total, log.oldest = total, log.oldest or log.now
end
