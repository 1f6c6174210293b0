-- The log of one policy and one key: a sorted set. An entry is an admission: score = its time (µs, strictly
-- increasing), member = running total of cost. The last rank, at +inf, is the summary, so that the two last ranks
-- mostly say everything. used = total of the newest entry − total before the oldest entry in the window.
--
-- Summary: five or six numbers, each as a double, big-endian. Reading them is several times cheaper than parsing text.
--   generation  time at which the log was made, or set back; identifies its admissions, see give_back
--   window      µs for which entries count
--   oldest      time of the oldest entry that is kept
--   base        total before that entry, refunds included
--   shift       µs added to the Redis clock to get the time of the log; 0 unless that clock has gone back
--   block       time of the log at which the block of the key ends; only while it is blocked
--
-- The program puts this file in front of every script that touches logs.

local call, pcall, floor, max, min = redis.call, redis.pcall, math.floor, math.max, math.min
local tonumber, format = tonumber, string.format

-- Redis formats a number several times slower than this does.
local function text(number) return format('%d', number) end

-- A sorted set or a string that is not ours. Redis uses the same words for a value of another type.
local FOREIGN = { err = 'WRONGTYPE The key holds a value that is not a log' }
local function is_foreign(problem) return string.find(problem.err, 'WRONGTYPE', 1, true) ~= nil end

-- Tolerance (µs) for entries ahead of the clock: many entries in one microsecond, or a failover to a server whose
-- clock is slightly behind. Anything further ahead means that the clock has gone back.
local STEP = 100000

-- Waits that exceed the window by less than this (µs) are cut to it: entries made in one microsecond are dated apart.
local ROUNDING = 1000

-- Entries of a slice are merged when the total passes a multiple of this, and when the slice is over. Merging at each
-- admission would cost one command more. A set holds fewer than this many entries beyond its number of slices.
local LOOSE = 8

-- Entries that one call removes or merges at most, so that no call takes long however large the log is.
local MOST = 250

-- Entries behind its own that what was taken ahead may change when it comes back.
local NEWER = 32

-- The most that a window can hold; see LARGEST_TOTAL in policy.ts.
local LARGEST = 9007199254740928

local pack, read = struct.pack, struct.unpack
local SUMMARY, SUMMARY_BYTES = '>ddddd', 40
local BLOCKED, BLOCKED_BYTES = '>dddddd', 48

local function summary(log, window, oldest, base)
  if log.block > log.now then return pack(BLOCKED, log.generation, window, oldest, base, log.shift, log.block) end
  return pack(SUMMARY, log.generation, window, oldest, base, log.shift)
end

-- How far (µs) the newest entry may be ahead of the clock: a slice, one second at most, where entries share slices.
local function ahead_of(slice, shared)
  if shared then return min(slice, 1000000) end
  return 0
end

-- The expiry is renewed once in a stretch of time, a sixteenth of the window and half a second at most. It always
-- covers the whole stretch, and a block.
local function stretch(window) return min(window / 16, 500000) end

local function expire(key, log, score, window)
  local long = stretch(window)
  local last = max(score - score % long + long + window, log.block)
  call('PEXPIREAT', key, text((last - log.shift) / 1000 + 1))
end

-- Total before the oldest entry newer than `edge`, the time of that entry and its rank; the caller knows that it exists.
local function begin(key, edge)
  local head = call('ZRANGE', key, '0', '1', 'WITHSCORES')
  if tonumber(head[4]) > edge then return tonumber(head[1]), tonumber(head[4]), 1 end
  local rank = call('ZCOUNT', key, '-inf', text(edge))
  head = call('ZRANGE', key, text(rank - 1), text(rank), 'WITHSCORES')
  return tonumber(head[1]), tonumber(head[4]), rank
end

-- Reads a log into `log` (a table that is used again and again).
-- clock   µs of the Redis clock
-- ahead   µs that the newest entry may be ahead of the clock, see ahead_of
-- writes  whether a log may be set back here
-- When the clock has gone back, the log's own time goes on from its newest entry. Only `shift` changes, whatever the
-- size of the log, and a new generation begins.
-- Returns an error (a table with `err`) where the key holds something else.
local function look(log, key, clock, window, ahead, writes)
  local tail = pcall('ZRANGE', key, '-2', '-1', 'WITHSCORES')
  local known = tail[3]
  log.block = 0
  if not known then
    if tail.err then return tail end
    if tail[1] then return FOREIGN end
    log.summary, log.total, log.base, log.oldest = false, 0, 0, false
    log.now, log.last, log.shift = clock, false, 0
    return nil
  end
  local total, last, bytes = tonumber(tail[1]), tonumber(tail[2]), #known
  if not total or bytes ~= SUMMARY_BYTES and bytes ~= BLOCKED_BYTES then return FOREIGN end
  local first, before
  if bytes == SUMMARY_BYTES then
    log.generation, log.kept, first, before, log.shift = read(SUMMARY, known)
  else
    log.generation, log.kept, first, before, log.shift, log.block = read(BLOCKED, known)
  end
  log.summary, log.total, log.last, log.first, log.before = known, total, last, first, before
  local now = clock + log.shift
  if last > now + ahead + STEP then
    log.shift = last - ahead - clock
    now = last - ahead
    log.now = now
    if writes then
      log.generation = last + 1
      log.summary = summary(log, window, first, before)
      call('ZADD', key, '+inf', log.summary)
      call('ZREM', key, known)
      expire(key, log, last, window)
    end
  end
  log.now = now
  local edge = now - window
  if first > edge and total > before then
    log.base, log.oldest = before, first
  elseif last > edge and total > before then
    local base, oldest, expired = begin(key, edge)
    if not base or not oldest then return FOREIGN end
    log.base, log.oldest, log.expired = max(before, base), oldest, expired
  else
    log.base, log.oldest, log.expired = total, false, call('ZCARD', key) - 1
  end
end

-- The first entry whose total is at least `goal`, which is more than no longer counts: its time and its rank. It is mostly
-- the first of all; else it is searched by halving, as totals rise with rank.
local function reach(key, goal)
  local entry = call('ZRANGE', key, '0', '0', 'WITHSCORES')
  if tonumber(entry[1]) >= goal then return tonumber(entry[2]), 0 end
  local low, high = 0, call('ZCARD', key) - 2
  while high - low > 1 do
    local middle = floor((low + high) / 2)
    if tonumber(call('ZRANGE', key, text(middle), text(middle))[1]) >= goal then high = middle else low = middle end
  end
  return tonumber(call('ZRANGE', key, text(high), text(high), 'WITHSCORES')[2]), high
end

-- A wait (µs) as it is reported.
local function rounded(wait, window)
  if wait < window + ROUNDING then wait = min(wait, window) end
  return max(1, wait)
end

-- µs until `cost`, which does not fit now, fits under `limit`; the window when it never will.
local function wait(key, log, cost, limit, window)
  if cost > limit then return window end
  return rounded(reach(key, log.total + cost - limit) + window - log.now, window)
end

-- µs until the oldest entry leaves the window; 0 when nothing is in it.
local function until_reset(log, window)
  if not log.oldest then return 0 end
  return rounded(log.oldest + window - log.now, window)
end

-- Units in entries that are dated ahead of the clock.
local function units_ahead(key, log)
  local entry = call('ZREVRANGEBYSCORE', key, text(log.now), '-inf', 'LIMIT', '0', '1')
  return log.total - max(log.base, tonumber(entry[1]) or log.base)
end

-- Removes up to MOST entries that no longer count.
local function trim(key, count)
  if count > 0 then call('ZREMRANGEBYRANK', key, '0', text(min(count, MOST) - 1)) end
end

-- Merges entries of one slice in a stretch of the log. Needed where charges or a changed precision have let it grow. The
-- total has risen by about LOOSE since the last call, so each takes another stretch. Returns the time of the oldest entry
-- that counts.
local function compact(key, log, slice, oldest)
  local from = log.total * 16 % call('ZCARD', key)
  local all = call('ZRANGE', key, text(from), text(from + MOST), 'WITHSCORES')
  for i = 1, #all, 2 do
    local time, next_time = tonumber(all[i + 1]), tonumber(all[i + 3])
    if next_time and floor(time / slice) == floor(next_time / slice) then
      call('ZREM', key, all[i])
      if time == oldest then oldest = next_time end
    end
  end
  return oldest
end

-- Lowers all totals by what no longer counts, so that they stay exact. Reads the whole log: once in 2^53 units of cost.
local function rebase(key, log, window)
  local base, first = log.base, log.oldest
  local all = first and call('ZRANGEBYSCORE', key, text(first), '(inf', 'WITHSCORES') or {}
  call('UNLINK', key)
  for i = 1, #all, 2 do call('ZADD', key, all[i + 1], text(tonumber(all[i]) - base)) end
  log.total, log.base = log.total - base, 0
  if first then
    log.first, log.before, log.kept = first, 0, window
    log.summary = summary(log, window, first, log.before)
    call('ZADD', key, '+inf', log.summary)
    expire(key, log, log.last, window)
  else
    log.summary = false
  end
end

-- Charges `cost` and brings `log` up to date: total, oldest entry, and `score`, the time of the admission. The first
-- write grows the set, so that Redis checks `maxmemory`.
-- slice: µs, 0 for none; shared: whether entries of a slice are merged.
-- life: µs from now in which the cost may still be used; its entry is dated at the end of them. 0 for what is used now.
local function append(key, log, cost, window, slice, shared, life)
  if log.total + cost > LARGEST then rebase(key, log, window) end
  local now, last, known, before_it = log.now, log.last, log.summary, log.total
  local score = now + life
  if last and last >= score then score = last + 1 end
  local total = before_it + cost
  log.total, log.score, log.last = total, score, score
  if not known then
    log.generation, log.kept = score, window
    call('ZADD', key, text(score), text(total), '+inf', summary(log, window, score, before_it))
    expire(key, log, score, window)
    log.oldest = score
    return nil
  end

  local oldest, first, before, edge = log.oldest or score, log.first, log.before, now - window
  local stale = first <= edge or not log.oldest
  if stale then first, before = oldest, log.base end
  -- A slice that is over is merged into its last entry, and now and then the present one into its new entry.
  local start, survivor, crowded
  if shared and last > edge then
    start = last - last % slice
    local full = total % LOOSE < cost
    if score >= start + slice then survivor = last elseif full then survivor = score end
    if survivor and first < survivor then
      local surplus = call('ZCARD', key) - window / slice - 2 * LOOSE - 3
      crowded = full and surplus > 0
      if surplus > MOST then survivor = nil end
    else
      survivor = nil
    end
    if survivor then
      if first >= start then first = survivor end
      if oldest >= start then oldest = max(oldest, survivor) end
    end
  end

  local same_window, news = log.kept == window, known
  if not same_window or stale or first ~= log.first then news = summary(log, window, first, before) end
  if news == known then
    call('ZADD', key, text(score), text(total))
  else
    call('ZADD', key, text(score), text(total), '+inf', news)
    call('ZREM', key, known)
  end
  if stale then trim(key, log.expired) end
  if survivor then call('ZREMRANGEBYSCORE', key, text(math.ceil(start)), '(' .. text(survivor)) end
  if crowded then
    first = compact(key, log, slice, first)
    oldest = max(oldest, first)
    local compacted = summary(log, window, first, before)
    if compacted ~= news then
      call('ZADD', key, '+inf', compacted)
      call('ZREM', key, news)
    end
  end
  if not same_window or score - score % stretch(window) > last then expire(key, log, score, window) end
  log.oldest = oldest
end

-- Blocks a key for `duration` (µs): a log holds the end of its block, one that has no entry yet gets one of cost 0.
local function block(key, log, duration, window)
  log.block = log.now + duration
  if log.summary then
    local news = summary(log, log.kept, log.first, log.before)
    if news ~= log.summary then
      call('ZADD', key, '+inf', news)
      call('ZREM', key, log.summary)
    end
    expire(key, log, max(log.last, log.now), log.kept)
  else
    log.generation, log.last = log.now, log.now
    call('ZADD', key, text(log.now), '0', '+inf', summary(log, window, log.now, 0))
    expire(key, log, log.now, window)
  end
end

-- Gives up to `cost` back, off the oldest units: what stays is as new as it can be, so no window is overfilled.
-- generation, time: identity of the admission whose cost it is; 0 for an operator's refund, which has none. An
-- admission of another generation, or one that has left the window, gives nothing back. The newest entry may show that
-- the clock has gone back a little: what had left the window by then is gone for good.
-- Returns the cost given back.
local function give_back(key, log, cost, window, generation, time)
  if not log.summary then return 0 end
  if generation > 0 and (generation ~= log.generation or time <= max(log.now, log.last) - window) then return 0 end
  local base = min(log.base + cost, log.total)
  local given = base - log.base
  if given == 0 then return 0 end
  local first, rank
  if base < log.total then
    first, rank = reach(key, base + 1)
  elseif log.block > log.now then
    -- The key stays blocked. Its newest entry stays too: a log has one at least.
    log.generation = log.last + 1
    first, rank = log.last, call('ZCARD', key) - 2
  else
    call('UNLINK', key)
    return given
  end
  local news = summary(log, log.kept, first, base)
  if news ~= log.summary then
    call('ZADD', key, '+inf', news)
    call('ZREM', key, log.summary)
  end
  trim(key, rank)
  return given
end

-- Units that were taken ahead and not used come off their own entry: the first that is dated at `time` or later, which
-- holds them also where its slice has been merged. So what was used keeps its time. That lowers the totals behind it, so
-- the oldest units go instead where more than NEWER entries are newer, or where nothing would be left.
-- Returns the cost given back. `ahead`: µs that the newest entry may be ahead of the clock.
local function give_back_ahead(key, log, clock, cost, window, ahead, generation, time)
  local own = 0
  local counts = log.summary and generation == log.generation and time > max(log.now, log.last) - window
  if counts and log.total - log.base > cost then
    local all = call('ZRANGEBYSCORE', key, text(time), '(inf', 'WITHSCORES', 'LIMIT', '0', text(NEWER + 1))
    local before = tonumber(call('ZREVRANGEBYSCORE', key, '(' .. text(time), '-inf', 'LIMIT', '0', '1')[1])
    before = max(log.base, before or log.base)
    if all[1] and #all <= 2 * NEWER then own = min(cost, tonumber(all[1]) - before) end
    if own > 0 then
      local old, new = {}, {}
      for i = 1, #all, 2 do
        local total = tonumber(all[i]) - own
        old[#old + 1] = all[i]
        if total > before then
          new[#new + 1] = all[i + 1]
          new[#new + 1] = text(total)
        elseif tonumber(all[i + 1]) == log.first then
          local news = summary(log, log.kept, tonumber(all[i + 3]), log.before)
          call('ZADD', key, '+inf', news)
          call('ZREM', key, log.summary)
        end
      end
      call('ZREM', key, unpack(old))
      if new[1] then call('ZADD', key, unpack(new)) end
      if own == cost then return own end
      look(log, key, clock, window, ahead, true)
    end
  end
  return own + give_back(key, log, cost - own, window, generation, time)
end
