-- Stands before every script of a room: its clock, its meta hash and how history is trimmed.
--
-- Meta fields: v layout, e epoch, o newest offset, r run it was last numbered under, w run under which
-- a node that follows the room has found it to be what it knew, n newest offset when the epoch began,
-- i when that was, g number of the last login, hn and hx its holder and lease; of history: b bytes,
-- a time before which nothing in it was published, k newest offset kept, l when that was, d newest
-- offset forgotten, c when that was published, x when its life was last prolonged.
-- All times are milliseconds since 1970.
--
-- Everything that can fail stands before the first write of a script, as Redis does not undo one.

local LAYOUT = '1'

local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

local function digits(number)
  return string.format('%.0f', number)
end

-- The fields of a room; none if there is no such room. Raises an error for another layout.
local function load(meta)
  local names = { 'v', 'e', 'o', 'r', 'w', 'n', 'i', 'b', 'a', 'k', 'l', 'd', 'c', 'x', 'g', 'hn', 'hx' }
  local found = redis.call('HMGET', meta, unpack(names))
  local room = {}
  for index, name in ipairs(names) do
    room[name] = found[index] or nil
  end
  if not room.e then
    return nil
  end
  if room.v ~= LAYOUT then
    error('LAYOUT of the room is ' .. tostring(room.v))
  end
  for _, name in ipairs({ 'o', 'n', 'i', 'b', 'a', 'k', 'l', 'd', 'c', 'x', 'g', 'hx' }) do
    room[name] = tonumber(room[name] or '0')
  end
  return room
end

-- A numbering that begins now. What is known of logins stays.
local function begin(room, epoch, run)
  room.e, room.r = epoch, run
  room.n, room.i = 0, now
  room.o, room.b, room.a, room.k, room.l, room.d, room.c, room.x = 0, 0, now, 0, 0, 0, now, 0
  room.g = room.g or 0
  return room
end

local function save_history(meta, room)
  redis.call('HSET', meta, 'b', digits(room.b), 'a', digits(room.a), 'k', digits(room.k),
    'l', digits(room.l), 'd', digits(room.d), 'c', digits(room.c))
end

-- Writes a room that begins. What may be left of another history is not its own.
local function save_new(meta, history, room, meta_ttl)
  redis.call('HSET', meta, 'v', LAYOUT, 'e', room.e, 'o', '0', 'n', '0', 'i', digits(now), 'r', room.r,
    'g', digits(room.g), 'x', '0')
  save_history(meta, room)
  redis.call('PEXPIRE', meta, meta_ttl)
  redis.call('DEL', history)
end

-- How many of the `length` entries, from the oldest on, are over a bound. Puts the room's figures
-- right for their loss, and returns how many there are.
local function over(history, room, length, count_max, bytes_max, ttl)
  if length <= count_max and room.b <= bytes_max and room.a + ttl > now then
    return 0
  end
  local gone, start, chunk = 0, '-', 1
  while gone < length do
    local entries = redis.call('XRANGE', history, start, '+', 'COUNT', chunk)
    if #entries == 0 then
      break
    end
    for _, entry in ipairs(entries) do
      local at = tonumber(entry[2][2])
      local is_old = at + ttl <= now
      room.a = at
      if not is_old and length - gone <= count_max and room.b <= bytes_max then
        return gone
      end
      gone = gone + 1
      room.d = tonumber(string.match(entry[1], '^%d+'))
      room.b = room.b - #entry[2][4]
      room.c = math.max(room.c, at)
      if not is_old and length - gone <= count_max and room.b <= bytes_max then
        -- Those behind it are younger.
        return gone
      end
    end
    start = digits(room.d + 1) .. '-0'
    chunk = math.min(chunk * 4, 64)
  end
  room.b = 0
  return gone
end

-- Of a history that has gone by itself, that it has is put down.
local function note_length(room, length)
  if length == 0 and room.k > room.d then
    room.b, room.a, room.d, room.c = 0, now, room.k, math.max(room.c, room.l)
  end
end

local function sub_token(envelope)
  return string.sub(envelope, 2, 17)
end
