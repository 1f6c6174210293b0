-- The log of one policy and one key: a sorted set. An entry is an admission: score = its time (µs of the Redis clock,
-- strictly increasing), member = running total of cost. The last rank, at +inf, is the summary of what is kept, so that
-- the two last ranks mostly say all: 'keep:oldest:base' = µs for which entries are kept · time of the oldest entry ·
-- total before it. used = total of the newest entry − total before the oldest one in the window.
-- The program puts this file in front of every script that touches logs.

local call, pcall, floor, max, min = redis.call, redis.pcall, math.floor, math.max, math.min
local tonumber, format, match = tonumber, string.format, string.match

-- Numbers go to commands as text made here: left to Redis, each costs several times as much.
local function text(number) return format('%d', number) end

-- The answer for a sorted set or a string that is not ours, in the words Redis has for other types.
local FOREIGN = { err = 'WRONGTYPE The key holds a value that is not a log' }

-- What was written more than this ahead of the clock (µs) says that the clock has gone back. Less is no more than
-- many entries in one microsecond, or a failover between clocks as near as clocks are.
local STEP = 100000

-- Entries of one slice become one whenever the total passes a multiple of this, and when the next slice begins: not at
-- each admission, which would be a command more. So the set holds fewer than these more than it has slices.
local LOOSE = 8

local function summary(keep, oldest, base) return format('%d:%d:%d', keep, oldest, base) end

-- Time is cut into stretches of a sixteenth of `keep`, half a second at most: the first admission of each lets the key live
-- until all of the stretch has left the window, and the others need not.
local function stretch(keep) return min(keep / 16, 500000) end

local function expire(key, now, keep)
  local long = stretch(keep)
  call('PEXPIREAT', key, text((now - now % long + long + keep) / 1000 + 1))
end

-- The clock has gone back by `ahead`, and so does the log: its last entry is made now, and all others as long before
-- it as they were. None looks older than it is, and none keeps anybody waiting for the clock to catch up.
local function set_back(key, ahead, now, keep, log)
  local all = call('ZRANGE', key, '0', '-2', 'WITHSCORES')
  for i = 1, #all, 2 do call('ZADD', key, text(tonumber(all[i + 1]) - ahead), all[i]) end
  local moved = summary(keep, max(0, log.first - ahead), log.before)
  call('ZADD', key, '+inf', moved)
  if moved ~= log.summary then call('ZREM', key, log.summary) end
  expire(key, now, keep)
end

-- Total before the oldest entry that is newer than `edge`, the time of that entry and its rank; there is one.
local function begin(key, edge)
  local head = call('ZRANGE', key, '0', '1', 'WITHSCORES')
  if tonumber(head[4]) > edge then return tonumber(head[1]), tonumber(head[4]), 1 end
  local rank = call('ZCOUNT', key, '-inf', text(edge))
  head = call('ZRANGE', key, text(rank - 1), text(rank), 'WITHSCORES')
  return tonumber(head[1]), tonumber(head[4]), rank
end

-- Looks at a log and fills in `log` (a table made once and used again). Times and windows in µs. Writes nothing,
-- unless the clock has gone back and `keep` says for how long the log is of use.
-- Returns the error (a table with `err`) where the key holds something else.
local function look(log, key, now, window, keep)
  local tail = pcall('ZRANGE', key, '-2', '-1', 'WITHSCORES')
  local known = tail[3]
  if not known then
    if tail.err then return tail end
    if tail[1] then return FOREIGN end
    log.now, log.summary, log.total, log.base, log.oldest = now, false, 0, 0, false
    return nil
  end
  local kept, first, before = match(known, '^(%d+):(%d+):(%d+)$')
  local total, last = tonumber(tail[1]), tonumber(tail[2])
  if not kept or not total then return FOREIGN end
  first, before = tonumber(first), tonumber(before)
  log.summary, log.total, log.last, log.kept, log.first, log.before = known, total, last, kept, first, before
  if last >= now then
    if keep and last - now > STEP then
      set_back(key, last - now, now, keep, log)
      return look(log, key, now, window)
    end
    now = last + 1 -- the clock stood still or went back: time goes on from the last entry
  end
  log.now = now
  local edge = now - window
  if first > edge then
    log.base, log.oldest, log.rank = before, first, 0
  elseif last > edge then
    log.base, log.oldest, log.rank = begin(key, edge)
    if not log.base or not log.oldest then return FOREIGN end
  else
    log.base, log.oldest = total, false
  end
  return nil
end

-- µs until `cost` fits under `limit`; 0 when it fits now, the window when it never will.
local function wait(key, log, cost, limit, window)
  local must_leave = log.total + cost - limit
  if log.base >= must_leave then return 0 end
  if cost > limit then return window end
  local low = log.rank
  local entry = call('ZRANGE', key, text(low), text(low), 'WITHSCORES')
  if tonumber(entry[1]) < must_leave then
    local high = call('ZCARD', key) - 2
    low = low + 1
    while low < high do -- totals rise with rank: halve until the first that is large enough
      local middle = floor((low + high) / 2)
      if tonumber(call('ZRANGE', key, text(middle), text(middle))[1]) >= must_leave then high = middle else low = middle + 1 end
    end
    entry = call('ZRANGE', key, text(low), text(low), 'WITHSCORES')
  end
  return max(1, min(tonumber(entry[2]) + window - log.now, window))
end

-- Makes one of all entries of a slice, where charges or a changed quota have let the set grow. Gives the time of the
-- oldest entry that is left.
local function compact(key, slice)
  local all = call('ZRANGE', key, '0', '-2', 'WITHSCORES')
  local oldest
  for i = 1, #all, 2 do
    local time, next_time = tonumber(all[i + 1]), tonumber(all[i + 3])
    if next_time and floor(time / slice) == floor(next_time / slice) then
      call('ZREM', key, all[i])
    else
      oldest = oldest or time
    end
  end
  return oldest
end

-- Charges `cost` and brings the log up to date: its total and its oldest entry. The first write is the one that
-- grows, so that `maxmemory` is respected.
-- slice: µs, 0 for none; shared: whether entries of a slice become one; keep: µs for which the log is of use.
local function append(key, log, cost, window, keep, slice, shared)
  local now, last, known, before_it = log.now, log.last, log.summary, log.total
  local total = before_it + cost
  log.total = total
  if not known then
    call('ZADD', key, text(now), text(total), '+inf', summary(keep, now, 0))
    expire(key, now, keep)
    log.oldest = now
    return nil
  end

  local oldest, first, before, edge = log.oldest or now, log.first, log.before, now - keep
  local stale = first <= edge
  if stale then
    if last <= edge then
      first, before = now, before_it
    elseif keep == window then
      first, before = oldest, log.base
    else
      before, first = begin(key, edge)
    end
  end
  -- A slice that is over becomes one with its last entry, and now and then the present one with its new entry.
  local start, survivor, full
  if shared and last > edge then
    start, full = last - last % slice, total % LOOSE < cost
    if now >= start + slice then survivor = last elseif full then survivor = now end
    if survivor and first < survivor then
      if first >= start then first = survivor end
      if oldest >= start and oldest < survivor then oldest = survivor end
    else
      survivor = nil
    end
  end

  local same_keep, news = tonumber(log.kept) == keep, known
  if not same_keep or first ~= log.first or before ~= log.before then news = summary(keep, first, before) end
  if news == known then
    call('ZADD', key, text(now), text(total))
  else
    call('ZADD', key, text(now), text(total), '+inf', news)
    call('ZREM', key, known)
  end
  if stale then call('ZREMRANGEBYSCORE', key, '-inf', text(edge)) end
  if survivor then call('ZREMRANGEBYSCORE', key, text(start + 0.999999), '(' .. text(survivor)) end
  if full and call('ZCARD', key) > keep / slice + LOOSE + 3 then
    first = compact(key, slice)
    oldest = max(oldest, first)
    local compacted = summary(keep, first, before)
    if compacted ~= news then
      call('ZADD', key, '+inf', compacted)
      call('ZREM', key, news)
    end
  end
  if not same_keep or now - now % stretch(keep) > last then expire(key, now, keep) end
  log.oldest = oldest
  return nil
end
