-- Makes a login the latest of a user. Returns {'ok', generation}, or {'held'} if another holds the
-- user and this one may not replace it.

local meta, history = KEYS[1], KEYS[2]
local feed, run, epoch, meta_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local holder, is_exclusive, lease = ARGV[5], ARGV[6] == '1', tonumber(ARGV[7])

local room = load(meta)
if not room then
  room = begin({}, epoch, run)
  save_new(meta, history, room, meta_ttl)
elseif room.hn == holder then
  -- Asked for again.
  return { 'ok', digits(room.g) }
elseif is_exclusive and room.hn and room.hx > now then
  return { 'held' }
end
-- The time in microseconds as a floor: it rises even if Redis has forgotten how far it had come.
local generation = digits(math.max(room.g + 1, time[1] * 1000000 + time[2]))
redis.call('HSET', meta, 'g', generation, 'hn', holder, 'hx', digits(now + lease))
redis.call('PEXPIRE', meta, meta_ttl)
redis.call('PUBLISH', feed, 'g ' .. generation)
return { 'ok', generation }
