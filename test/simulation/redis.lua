-- The commands of Redis that the scripts of the plugin use, in the Lua that Redis has (5.1), with a clock that is set from
-- outside. redis.test.ts compares every command with a real Redis.
--
-- simulate.run(text) runs a script. text: the clock (µs), the SHA-1 of the script, the number of keys, the keys, the
-- arguments, separated by the byte 1. Returns the reply as text: see `encoded`.

local SEPARATOR = '\1'
local WRONGTYPE = 'WRONGTYPE Operation against a key holding the wrong kind of value'

local now = 0
local keys, kinds, expiries = {}, {}, {}
local scripts = {}

-- Numbers --------------------------------------------------------------------------------------------------------

local native_format = string.format

-- %d takes 64 bits in Redis, and 32 here.
function string.format(form, ...)
  if not string.find(form, '%d', 1, true) then return native_format(form, ...) end
  local values, at = { ... }, 0
  local count = select('#', ...)
  form = string.gsub(form, '%%(.)', function(letter)
    if letter == '%' then return '%%%%' end
    at = at + 1
    if letter ~= 'd' then return '%' .. letter end
    local number = tonumber(values[at])
    values[at] = number < 0 and math.ceil(number) or math.floor(number)
    return '%.0f'
  end)
  return native_format(form, unpack(values, 1, count))
end

-- How Redis writes a number: the shortest text that reads back as it.
local function text(number)
  if type(number) == 'string' then return number end
  if number == math.huge then return 'inf' end
  if number == -math.huge then return '-inf' end
  if number == math.floor(number) and math.abs(number) < 1e17 then return native_format('%.0f', number) end
  return native_format('%.17g', number)
end

struct = {}

local packed_doubles, unpacked = {}, {}

local function pack_double(number)
  local known = packed_doubles[number]
  if known then return known end
  local sign, exponent, fraction = 0, 0, 0
  if number < 0 then sign, number = 128, -number end
  if number > 0 then
    local mantissa, power = math.frexp(number)
    exponent, fraction = power + 1022, (mantissa * 2 - 1) * 4503599627370496
  end
  local bytes = {}
  for i = 8, 3, -1 do
    bytes[i] = fraction % 256
    fraction = math.floor(fraction / 256)
  end
  bytes[2] = (exponent % 16) * 16 + fraction
  bytes[1] = sign + math.floor(exponent / 16)
  local all = string.char(unpack(bytes))
  if sign == 0 then packed_doubles[number] = all end
  return all
end

function struct.pack(_, ...)
  local parts = { ... }
  for i = 1, #parts do parts[i] = pack_double(parts[i]) end
  return table.concat(parts)
end

function struct.unpack(_, packed)
  local numbers = unpacked[packed]
  if not numbers then
    numbers = {}
    for from = 1, #packed, 8 do
      local bytes = { string.byte(packed, from, from + 7) }
      local exponent = (bytes[1] % 128) * 16 + math.floor(bytes[2] / 16)
      local fraction = bytes[2] % 16
      for i = 3, 8 do fraction = fraction * 256 + bytes[i] end
      local number = exponent == 0 and 0 or math.ldexp(1 + fraction / 4503599627370496, exponent - 1023)
      numbers[#numbers + 1] = bytes[1] >= 128 and -number or number
    end
    unpacked[packed] = numbers
  end
  return unpack(numbers)
end

-- Keys -----------------------------------------------------------------------------------------------------------

local function milliseconds() return math.floor(now / 1000) end

local function drop(key)
  if keys[key] == nil then return 0 end
  keys[key], kinds[key], expiries[key] = nil, nil, nil
  return 1
end

-- The value of a key of this kind; nil where there is none. Raises an error where it is of another kind.
local function value_of(key, kind)
  local expiry = expiries[key]
  if expiry and milliseconds() > expiry then drop(key) end
  local value = keys[key]
  if value ~= nil and kinds[key] ~= kind then error({ err = WRONGTYPE }, 0) end
  return value
end

local function exists(key)
  local expiry = expiries[key]
  if expiry and milliseconds() > expiry then drop(key) end
  return keys[key] ~= nil
end

local function make(key, kind, value)
  keys[key], kinds[key] = value, kind
  return value
end

-- Sorted sets ----------------------------------------------------------------------------------------------------
-- { scores = score by member, list = members in order }

local function is_before(scores, a, b)
  local x, y = scores[a], scores[b]
  if x ~= y then return x < y end
  return a < b
end

-- Where a member is, or would be.
local function place(set, member, score)
  local list, scores = set.list, set.scores
  local low, high = 1, #list + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    local other = list[middle]
    local at = scores[other]
    if at < score or (at == score and other < member) then low = middle + 1 else high = middle end
  end
  return low
end

local function take_out(set, member)
  local score = set.scores[member]
  if score == nil then return false end
  table.remove(set.list, place(set, member, score))
  set.scores[member] = nil
  return true
end

local function put_in(set, member, score)
  take_out(set, member)
  table.insert(set.list, place(set, member, score), member)
  set.scores[member] = score
end

local function number(value)
  local lower = string.lower(value)
  if lower == 'inf' or lower == '+inf' then return math.huge end
  if lower == '-inf' then return -math.huge end
  return tonumber(value)
end

-- A bound of a range of scores: its value, and whether it is left out.
local function bound(value)
  if string.sub(value, 1, 1) == '(' then return number(string.sub(value, 2)), true end
  return number(value), false
end

-- The first and the last place with a score in a range.
local function places(set, from, to)
  local low, without_low = bound(from)
  local high, without_high = bound(to)
  local list, scores = set.list, set.scores
  local first, last = 1, #list
  local function search(is_left)
    local a, b = 1, #list + 1
    while a < b do
      local middle = math.floor((a + b) / 2)
      if is_left(scores[list[middle]]) then a = middle + 1 else b = middle end
    end
    return a
  end
  first = search(function(score) return score < low or (without_low and score == low) end)
  last = search(function(score) return score < high or (not without_high and score == high) end) - 1
  return first, last
end

local function listed(set, first, last, with_scores, step)
  local reply = {}
  for i = first, last, step or 1 do
    local member = set.list[i]
    reply[#reply + 1] = member
    if with_scores then reply[#reply + 1] = text(set.scores[member]) end
  end
  return reply
end

local function ranks(set, from, to)
  local count = #set.list
  local first, last = tonumber(from), tonumber(to)
  if first < 0 then first = math.max(0, count + first) end
  if last < 0 then last = count + last end
  return first + 1, math.min(last + 1, count)
end

local function remove(key, set, first, last)
  if last < first then return 0 end
  for i = last, first, -1 do set.scores[table.remove(set.list, i)] = nil end
  if #set.list == 0 then drop(key) end
  return last - first + 1
end

local function is_option(value, name) return value ~= nil and string.upper(value) == name end

-- Commands -------------------------------------------------------------------------------------------------------

local commands = {}

function commands.TIME()
  return { text(math.floor(now / 1000000)), text(now % 1000000) }
end

function commands.ZADD(key, ...)
  local args, at, only = { ... }, 1, nil
  while is_option(args[at], 'NX') or is_option(args[at], 'XX') do
    only = string.upper(args[at])
    at = at + 1
  end
  local set = value_of(key, 'zset')
  local added = 0
  for i = at, #args, 2 do
    local score, member = number(args[i]), args[i + 1]
    local known = set and set.scores[member]
    if (known and only ~= 'NX') or (not known and only ~= 'XX') then
      set = set or make(key, 'zset', { scores = {}, list = {} })
      if known ~= score then put_in(set, member, score) end
      if not known then added = added + 1 end
    end
  end
  return added
end

function commands.ZREM(key, ...)
  local set = value_of(key, 'zset')
  if not set then return 0 end
  local count = 0
  for _, member in ipairs({ ... }) do if take_out(set, member) then count = count + 1 end end
  if #set.list == 0 then drop(key) end
  return count
end

function commands.ZCARD(key)
  local set = value_of(key, 'zset')
  return set and #set.list or 0
end

function commands.ZCOUNT(key, from, to)
  local set = value_of(key, 'zset')
  if not set then return 0 end
  local first, last = places(set, from, to)
  return math.max(0, last - first + 1)
end

function commands.ZRANGE(key, from, to, with_scores)
  local set = value_of(key, 'zset')
  if not set then return {} end
  local first, last = ranks(set, from, to)
  return listed(set, first, last, with_scores)
end

function commands.ZRANGEBYSCORE(key, from, to, with_scores)
  local set = value_of(key, 'zset')
  if not set then return {} end
  local first, last = places(set, from, to)
  return listed(set, first, last, with_scores)
end

-- Only with `LIMIT 0 count`.
function commands.ZREVRANGEBYSCORE(key, to, from, _, _, count)
  local set = value_of(key, 'zset')
  if not set then return {} end
  local first, last = places(set, from, to)
  return listed(set, last, math.max(first, last - tonumber(count) + 1), false, -1)
end

function commands.ZREMRANGEBYRANK(key, from, to)
  local set = value_of(key, 'zset')
  if not set then return 0 end
  return remove(key, set, ranks(set, from, to))
end

function commands.ZREMRANGEBYSCORE(key, from, to)
  local set = value_of(key, 'zset')
  if not set then return 0 end
  return remove(key, set, places(set, from, to))
end

function commands.PEXPIREAT(key, at)
  if not exists(key) then return 0 end
  if tonumber(at) <= milliseconds() then drop(key) else expiries[key] = tonumber(at) end
  return 1
end

function commands.PEXPIRE(key, life)
  return commands.PEXPIREAT(key, milliseconds() + tonumber(life))
end

function commands.PTTL(key)
  if not exists(key) then return -2 end
  local expiry = expiries[key]
  return expiry and math.max(0, expiry - milliseconds()) or -1
end

function commands.UNLINK(...)
  local count = 0
  for _, key in ipairs({ ... }) do if exists(key) then count = count + drop(key) end end
  return count
end

function commands.EXISTS(key) return exists(key) and 1 or 0 end

function commands.GET(key) return value_of(key, 'string') or false end

function commands.SET(key, value, ...)
  local args, at, life, is_new = { ... }, 1, nil, false
  while args[at] do
    if is_option(args[at], 'NX') then is_new = true end
    if is_option(args[at], 'PX') then
      at = at + 1
      life = tonumber(args[at])
    end
    at = at + 1
  end
  if life and life <= 0 then error({ err = "ERR invalid expire time in 'set' command" }, 0) end
  if is_new and exists(key) then return false end
  drop(key)
  make(key, 'string', value)
  if life then expiries[key] = milliseconds() + life end
  return { ok = 'OK' }
end

function commands.HSET(key, ...)
  local hash, args, added = value_of(key, 'hash') or make(key, 'hash', {}), { ... }, 0
  for i = 1, #args, 2 do
    if hash[args[i]] == nil then added = added + 1 end
    hash[args[i]] = args[i + 1]
  end
  return added
end

function commands.HGET(key, field)
  local hash = value_of(key, 'hash')
  return hash and hash[field] or false
end

function commands.HMGET(key, ...)
  local hash, reply = value_of(key, 'hash'), {}
  for i, field in ipairs({ ... }) do reply[i] = hash and hash[field] or false end
  return reply
end

function commands.HDEL(key, ...)
  local hash, count = value_of(key, 'hash'), 0
  for _, field in ipairs({ ... }) do
    if hash and hash[field] ~= nil then
      hash[field] = nil
      count = count + 1
    end
  end
  if hash and next(hash) == nil then drop(key) end
  return count
end

-- Scripts --------------------------------------------------------------------------------------------------------

local function call(name, ...)
  local command = commands[string.upper(name)]
  if not command then error({ err = 'ERR unknown command ' .. name }, 0) end
  local args = { ... }
  for i = 1, #args do args[i] = text(args[i]) end
  return command(unpack(args))
end

redis = {
  call = call,
  pcall = function(...)
    local worked, reply = pcall(call, ...)
    if worked or type(reply) == 'table' then return reply end
    return { err = 'ERR ' .. tostring(reply) }
  end,
}

-- A reply as text: `:` an integer, `$` a string, `-` an error, `_` nothing, `*` the length of a list, which follows.
local function encoded(value, parts)
  local kind = type(value)
  if kind == 'number' then
    parts[#parts + 1] = ':' .. text(value < 0 and math.ceil(value) or math.floor(value))
  elseif kind == 'string' then
    parts[#parts + 1] = '$' .. value
  elseif kind == 'boolean' or value == nil then
    parts[#parts + 1] = value and ':1' or '_'
  elseif value.err then
    parts[#parts + 1] = '-' .. value.err
  elseif value.ok then
    parts[#parts + 1] = '$' .. value.ok
  else
    parts[#parts + 1] = '*' .. #value
    for i = 1, #value do encoded(value[i], parts) end
  end
  return parts
end

local function hex(value)
  return (string.gsub(value, '.', function(byte) return native_format('%02x', string.byte(byte)) end))
end

-- No script may make a global variable, as in Redis.
local globals = setmetatable({}, {
  __index = _G,
  __newindex = function(_, name) error('Attempt to modify a readonly table: ' .. tostring(name)) end,
})

simulate = {}

-- Makes a script known by its SHA-1.
function simulate.load(sha, source)
  local script, problem = loadstring(source)
  if not script then error(problem) end
  scripts[sha] = setfenv(script, globals)
end

function simulate.run(input)
  local parts, size = {}, 0
  for part in string.gmatch(input .. SEPARATOR, '([^' .. SEPARATOR .. ']*)' .. SEPARATOR) do
    size = size + 1
    parts[size] = part
  end
  now = tonumber(parts[1])
  local count = tonumber(parts[3])
  local own_keys, args = {}, {}
  for i = 1, count do own_keys[i] = parts[3 + i] end
  for i = 4 + count, size do args[i - 3 - count] = parts[i] end
  rawset(globals, 'KEYS', own_keys)
  rawset(globals, 'ARGV', args)
  local worked, reply = pcall(scripts[parts[2]])
  if not worked and type(reply) ~= 'table' then reply = { err = 'ERR ' .. tostring(reply) } end
  return table.concat(encoded(reply, {}), SEPARATOR)
end

-- Forgets every key.
function simulate.clear()
  keys, kinds, expiries, unpacked, packed_doubles = {}, {}, {}, {}, {}
end

-- Everything that is stored, as text: a line for each key, with its expiry; bytes as hexadecimal.
function simulate.dump(clock)
  now = tonumber(clock)
  local lines = {}
  local names = {}
  for key in pairs(keys) do if exists(key) then names[#names + 1] = key end end
  table.sort(names)
  for _, key in ipairs(names) do
    local value, kind, shown = keys[key], kinds[key], {}
    if kind == 'string' then
      shown[1] = hex(value)
    elseif kind == 'zset' then
      for _, member in ipairs(value.list) do shown[#shown + 1] = hex(member) .. '=' .. text(value.scores[member]) end
    else
      for field, its in pairs(value) do shown[#shown + 1] = hex(field) .. '=' .. hex(its) end
      table.sort(shown)
    end
    lines[#lines + 1] = table.concat({ key, kind, tostring(commands.PTTL(key)), unpack(shown) }, ' ')
  end
  return table.concat(lines, '\n')
end
