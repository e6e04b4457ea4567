-- A login has gone; it is let go of unless another has replaced it. Returns {'ok'}.

local meta = KEYS[1]
local holder = ARGV[1]

local room = load(meta)
if room and room.hn == holder then
  redis.call('HDEL', meta, 'hn', 'hx')
end
return { 'ok' }
