-- Numbers a publication, keeps it and tells all who follow the room; or none of it.
-- Returns {'ok', epoch, offset, time}, {'repeated', …} with the same if the key is that of a publication
-- in an epoch that is over, {'wait'} if the room may not be numbered under this run yet, or {'unknown'}
-- if it may have been done and nobody can say.

local meta, history, key = KEYS[1], KEYS[2], KEYS[3]
local feed, run, is_settled, epoch = ARGV[1], ARGV[2], ARGV[3] == '1', ARGV[4]
local envelope, is_kept = ARGV[5], ARGV[6] == '1'
-- 0: asked for the first time; 1: may have been done; 2: may have been done under another run.
local doubt, doubt_ms = ARGV[7], tonumber(ARGV[8])
local count_max, bytes_max, ttl = tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
local meta_ttl, key_ttl = ARGV[12], ARGV[13]

local room = load(meta)
if key then
  local first = redis.call('GET', key)
  if first then
    local first_epoch, first_offset, at = string.match(first, '^(%w+) (%d+) (%d+)$')
    local is_over = not room or room.e ~= first_epoch
    return { is_over and 'repeated' or 'ok', first_epoch, first_offset, at }
  end
end

local length = 0
if is_kept then
  -- Read at once, so that a key of another type is an error before anything is written.
  length = redis.call('XLEN', history)
end

if doubt ~= '0' then
  local token = sub_token(envelope)
  local last, left = '+', 1000
  while is_kept and left > 0 do
    local entries = redis.call('XREVRANGE', history, last, '-', 'COUNT', 50)
    for _, entry in ipairs(entries) do
      if sub_token(entry[2][4]) == token then
        return { 'ok', room.e, string.match(entry[1], '^%d+'), entry[2][2] }
      end
      last = digits(tonumber(string.match(entry[1], '^%d+')) - 1) .. '-0'
    end
    left = #entries < 50 and 0 or left - #entries
    if left == 0 and #entries == 50 then
      return { 'unknown' }
    end
  end
  -- It was not done if it would have to be there. It would not, if it is not kept at all (but with a
  -- key it would be known by that), if Redis may have lost it, or if the room has forgotten
  -- publications of that time.
  local is_remembered = key or (is_kept and room and room.c < now - doubt_ms - 50)
  if doubt == '2' or not is_remembered then
    return { 'unknown' }
  end
end

if room and room.r ~= run and not is_settled then
  return { 'wait' }
end
if not room then
  room = begin({}, epoch, run)
  save_new(meta, history, room, meta_ttl)
  length = 0
elseif room.r ~= run and room.w ~= run then
  -- Nobody has known it under this run: what was numbered last may be lost. What is kept stays, and
  -- so does the count, but no offset may be given out twice in one epoch.
  room.e = epoch
  redis.call('HSET', meta, 'e', epoch, 'n', digits(room.o), 'i', digits(now))
  redis.call('PUBLISH', feed, 'b')
end

local offset = room.o + 1
local offset_text, now_text = digits(offset), digits(now)
if not is_kept then
  redis.call('HSET', meta, 'o', offset_text, 'r', run)
else
  note_length(room, length)
  local gone = over(history, room, length, count_max - 1, bytes_max - #envelope, ttl)
  if count_max == 0 or #envelope > bytes_max then
    -- What is too large alone is forgotten at once, and what was before it as well.
    redis.call('DEL', history)
    room.b, room.d, room.c = 0, offset, now
  else
    local id = offset_text .. '-0'
    if gone > 0 then
      redis.call('XADD', history, 'MAXLEN', length + 1 - gone, id, 't', now_text, 'v', envelope)
    else
      redis.call('XADD', history, id, 't', now_text, 'v', envelope)
    end
    room.b = room.b + #envelope
  end
  length = length + 1 - gone
  room.k, room.l = offset, now
  redis.call('HSET', meta, 'o', offset_text, 'r', run, 'b', digits(room.b), 'a', digits(room.a),
    'k', offset_text, 'l', now_text, 'd', digits(room.d), 'c', digits(room.c))
end
if length == 1 or now - room.x > 30000 or now < room.x then
  -- Not with each publication, so what lives longer for it lives a minute more.
  redis.call('HSET', meta, 'x', now_text)
  redis.call('PEXPIRE', meta, meta_ttl)
  redis.call('PEXPIRE', history, ttl + 60000)
end
if key then
  redis.call('SET', key, room.e .. ' ' .. offset_text .. ' ' .. now_text, 'PX', key_ttl)
end
redis.call('PUBLISH', feed, 'p ' .. room.e .. ' ' .. offset_text .. ' ' .. now_text .. '\n' .. envelope)
return { 'ok', room.e, offset_text, now_text }
