-- The log of one policy and one key: a sorted set. Score = admission time (µs of the Redis clock, strictly
-- increasing), member = running total of cost. Rank 0 is the base: the newest entry that has left the window, or a
-- zero where none has; it is subtracted and never counted. used = total of the last entry − total of the base.
-- The program puts this file in front of every script that touches logs.

-- Numbers go to commands as text made here: left to Redis, each costs several times as much.
local function text(number) return string.format('%d', number) end

-- The answer for a sorted set or a string that is not ours, in the words Redis has for other types.
local FOREIGN = { err = 'WRONGTYPE The key holds a value that is not a log' }

-- What was written more than this ahead of the clock (µs) says that the clock has gone back. Less is no more than
-- many entries in one microsecond, or a failover between clocks as near as clocks are.
local STEP = 100000

-- The clock has gone back by `ahead`, and so does the log: its last entry is made now, and all others as long before
-- it as they were. None looks older than it is, and none keeps anybody waiting for the clock to catch up.
local function set_back(key, ahead, keep)
  local all = redis.call('ZRANGE', key, '0', '-1', 'WITHSCORES')
  for i = 3, #all, 2 do redis.call('ZADD', key, text(tonumber(all[i + 1]) - ahead), all[i]) end
  redis.call('ZADD', key, '0', all[1]) -- the base
  redis.call('PEXPIRE', key, text(keep / 1000 + 1))
end

-- Looks at a log and fills in `log` (a table made once and used again). Times and windows in µs. Writes nothing,
-- unless the clock has gone back and `keep` says for how long the log is of use.
-- Returns the error (a table with `err`) where the key holds something else.
local function look(log, key, now, window, keep)
  local head = redis.pcall('ZRANGE', key, '0', '1', 'WITHSCORES')
  if head.err then return head end
  local size = #head
  log.size, log.oldest, log.stale = size, false, 0
  if size == 0 then
    log.now, log.edge, log.total, log.base, log.last = now, now - window, 0, 0, 0
    return nil
  end
  local member, last = head[size - 1], nil
  if size == 4 then
    local tail = redis.call('ZRANGE', key, '-1', '-1', 'WITHSCORES')
    member, last = tail[1], tonumber(tail[2])
  else
    last = tonumber(head[size])
  end
  if keep and last - now > STEP and tonumber(member) and tonumber(head[1]) then
    set_back(key, last - now, keep)
    return look(log, key, now, window)
  end
  if last >= now then now = last + 1 end -- the clock stood still or went back: time goes on from the last entry
  local edge = now - window
  log.now, log.edge, log.total, log.member, log.last = now, edge, tonumber(member), member, last
  if size == 2 then
    log.base = log.total
  else
    local oldest = tonumber(head[4])
    if oldest > edge then
      log.base, log.oldest, log.first = tonumber(head[1]), oldest, head[3]
    else
      local left = redis.call('ZCOUNT', key, '-inf', text(edge))
      local around = redis.call('ZRANGE', key, text(left - 1), text(left), 'WITHSCORES')
      log.stale, log.base = left - 1, tonumber(around[1])
      log.oldest, log.first = tonumber(around[4]), around[3]
    end
  end
  if not log.total or not log.base then return FOREIGN end
  return nil
end

-- µs until `cost` fits under `limit`; 0 when it fits now, the window when it never will.
local function wait(key, log, cost, limit, window)
  local must_leave = log.total + cost - limit
  if log.base >= must_leave then return 0 end
  if cost > limit then return window end
  local leaving = log.oldest
  if tonumber(log.first) < must_leave then
    local low, high = log.stale + 2, redis.call('ZCARD', key) - 1
    while low < high do -- totals rise with rank: halve until the first that is large enough
      local middle = math.floor((low + high) / 2)
      if tonumber(redis.call('ZRANGE', key, text(middle), text(middle))[1]) >= must_leave then high = middle else low = middle + 1 end
    end
    leaving = tonumber(redis.call('ZRANGE', key, text(low), text(low), 'WITHSCORES')[2])
  end
  return math.max(1, math.min(leaving + window - log.now, window))
end

-- Makes one of all entries of a slice, where charges or a changed quota have let the set grow. Rank 0 stays.
local function compact(key, slice)
  local all = redis.call('ZRANGE', key, '1', '-1', 'WITHSCORES')
  for i = 1, #all - 2, 2 do
    if math.floor(tonumber(all[i + 1]) / slice) == math.floor(tonumber(all[i + 3]) / slice) then
      redis.call('ZREM', key, all[i])
    end
  end
end

-- Charges `cost` and brings the log up to date: its total and its oldest entry. The first write is the one that
-- grows, so that `maxmemory` is respected.
-- slice: µs, 0 for none; shared: whether entries of a slice become one; keep: µs for which the log is of use.
local function append(key, log, cost, window, keep, slice, shared)
  local now, last, stale = log.now, log.last, log.stale
  local total = log.total + cost
  if log.size == 0 then
    redis.call('ZADD', key, '0', '0', text(now), text(total))
  else
    redis.call('ZADD', key, text(now), text(total))
    if keep > window then stale = redis.call('ZCOUNT', key, '-inf', text(now - keep)) - 1 end
    if shared and log.size == 4 and last > log.edge and math.floor(last / slice) == math.floor(now / slice) then
      redis.call('ZREM', key, log.member)
      if log.oldest == last then log.oldest = now end
    elseif shared and stale <= 0 and redis.call('ZCARD', key) > 127 then
      compact(key, slice)
    end
    if stale > 0 then redis.call('ZREMRANGEBYRANK', key, '0', text(stale - 1)) end
  end
  redis.call('PEXPIRE', key, text(keep / 1000 + 1))
  log.total, log.oldest = total, log.oldest or now
end
