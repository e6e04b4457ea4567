-- Forgets what is kept of a room, and has all who follow it read it again. Returns {'ok'}.

local meta, history = KEYS[1], KEYS[2]
local feed = ARGV[1]

local room = load(meta)
if room then
  local length = redis.call('XLEN', history)
  room.b, room.d, room.c = 0, room.o, now
  save_history(meta, room)
  if length > 0 then
    redis.call('DEL', history)
  end
  redis.call('PUBLISH', feed, 'b')
end
return { 'ok' }
