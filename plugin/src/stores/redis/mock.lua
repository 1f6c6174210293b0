-- Lets a script run in the Lua of ioredis-mock: version 5.3 written in JavaScript, with integers of 32 bits, text in
-- UTF-8, no `struct`, and replies that are lists of JavaScript.
-- The program puts this in front of the script, and the time (µs) behind its arguments. Redis never sees it.
local native, floor, to_number, to_text = call, math.floor, tonumber, string.format
local now = to_number(table.remove(ARGV))

-- Every number is a double, as in Redis.
function math.floor(number) return floor(number) + 0.0 end

function tonumber(value)
  local number = to_number(value)
  return number and number + 0.0
end

-- No number below 0 is formatted or packed. What is less than a whole number is cut off.
function string.format(form, ...)
  local values = { ... }
  for i, value in ipairs(values) do values[i] = floor(value) end
  return to_text((string.gsub(form, '%%d', '%%.0f')), table.unpack(values))
end

-- Packs numbers into eight ASCII characters each, seven bits a character.
struct = {}

function struct.pack(_, ...)
  local parts = {}
  for i, rest in ipairs({ ... }) do
    local digits = {}
    for at = 8, 1, -1 do
      digits[at] = rest % 128
      rest = floor(rest / 128)
    end
    parts[i] = string.char(table.unpack(digits))
  end
  return table.concat(parts)
end

function struct.unpack(_, text)
  local numbers = {}
  for from = 1, #text, 8 do
    local number = 0.0
    for at = from, from + 7 do number = number * 128 + string.byte(text, at) end
    numbers[#numbers + 1] = number
  end
  return table.unpack(numbers)
end

local function run(quiet, name, ...)
  if name == 'TIME' then return { math.floor(now / 1000000), now % 1000000 } end
  local args = { ... }
  if name == 'ZADD' then
    for i, arg in ipairs(args) do if arg == '+inf' then args[i] = 'Infinity' end end
  elseif name == 'PEXPIREAT' then
    -- Time goes on while the script runs: a log must not expire between two of its commands.
    args[2] = tonumber(args[2]) + 1000
  end
  local reply = native(quiet, name, table.unpack(args))
  if type(reply) ~= 'userdata' then return reply end
  local list = {}
  for i = 1, #reply do list[i] = reply[i] end
  return list
end

redis = {
  call = function(...) return run(false, ...) end,
  pcall = function(...) return run(true, ...) end,
}
