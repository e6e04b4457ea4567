-- What a room is, and what is kept of it after a position. To follow it (`is_read`), a room that
-- there is not begins, one that is not what it was begins anew, and one that nobody has found to be what
-- it was under this run goes on in another epoch, with its count and its history.
-- Returns {'ok', epoch, offset, first, complete since, began, time, online, generation, watched,
-- entries}, {'none'}, or {'wait'} if it is too soon to say whether the room is what it was. Shares of
-- nodes, and `watched`, are as in `beat.lua`.

local meta, history, nodes = KEYS[1], KEYS[2], KEYS[3]
local feed, run, epoch = ARGV[1], ARGV[2], ARGV[3]
-- 0: to look at it; 1: to follow it; 2: the same, when the run is settled.
local is_read, is_settled = ARGV[4] ~= '0', ARGV[4] == '2'
local count_max, bytes_max, ttl = tonumber(ARGV[5]), tonumber(ARGV[6]), tonumber(ARGV[7])
local meta_ttl, node = ARGV[8], ARGV[9]
-- Of the position that is known, if one is; the token may be empty.
local known_epoch, known_offset, known_token = ARGV[10], tonumber(ARGV[11] or '0'), ARGV[12]

local room = load(meta)
if not room and not is_read then
  return { 'none' }
end
local length = redis.call('XLEN', history)
local online, watched = 0, '0'
local shares = redis.call('HGETALL', nodes)
for index = 1, #shares, 2 do
  local mark, count, expiry = string.match(shares[index + 1], '^(0?)(%d+) (%d+)$')
  if count and tonumber(expiry) > now then
    online = online + tonumber(count)
    if mark == '0' and shares[index] ~= node then
      watched = '1'
    end
  end
end

if is_read then
  local is_broken = not room
  if room and known_epoch == room.e then
    if room.o < known_offset then
      is_broken = true
    elseif known_token ~= '' then
      local place = digits(known_offset) .. '-0'
      local entries = redis.call('XRANGE', history, place, place)
      is_broken = #entries > 0 and sub_token(entries[1][2][4]) ~= known_token
    end
    if not is_broken and room.r ~= run and room.w ~= run then
      redis.call('HSET', meta, 'w', run)
    end
  elseif room and known_epoch and room.r ~= run then
    -- An epoch that was over has come back with the data of a replica.
    is_broken = true
  elseif room and not known_epoch and room.r ~= run and room.w ~= run then
    -- Nobody has vouched for it yet. Those who join had better know the epoch that it goes on in.
    if not is_settled then
      return { 'wait' }
    end
    room.e, room.r, room.n, room.i = epoch, run, room.o, now
    redis.call('HSET', meta, 'e', epoch, 'r', run, 'n', digits(room.o), 'i', digits(now))
    redis.call('PUBLISH', feed, 'b')
  end
  if is_broken then
    room = begin(room or {}, epoch, run)
    save_new(meta, history, room, meta_ttl)
    length = 0
    if known_epoch then
      redis.call('PUBLISH', feed, 'b')
    end
  end
end

local forgotten = room.d
note_length(room, length)
local gone = over(history, room, length, count_max, bytes_max, ttl)
if gone > 0 then
  redis.call('XTRIM', history, 'MAXLEN', length - gone)
end
if room.d ~= forgotten then
  save_history(meta, room)
end

-- Who has known another epoch has seen what is kept of it.
local before, complete_since, from = room.d, room.c, nil
if known_epoch and known_epoch ~= room.e then
  before, complete_since = math.max(room.d, room.n), math.max(room.c, room.i)
end
if known_epoch == room.e then
  from = digits(known_offset + 1) .. '-0'
else
  from = digits(before + 1) .. '-0'
end
return { 'ok', room.e, digits(room.o), digits(before + 1), digits(complete_since), digits(room.n), digits(now),
  digits(online), digits(room.g), watched, redis.call('XRANGE', history, from, '+') }
