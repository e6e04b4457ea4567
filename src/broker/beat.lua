-- Takes note of a node's connections in a room, keeps the room from being forgotten and holds on to a
-- login. Returns {'ok', epoch, offset, online, generation, watched}, or {'none'} if there is no such
-- room and no reason for one. `watched` is '1' if another node has connections in it that want to be
-- told who joins and who leaves, else '0'.
--
-- A node's share is '<count> <expiry>'. With such connections its count has a zero in front: nodes that
-- do not know of that read the same number.

local meta, history, nodes = KEYS[1], KEYS[2], KEYS[3]
local feed, run, epoch, meta_ttl = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local node, members, lease, watches = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8] == '1'
-- Of the login that the node holds, if it does.
local holder, generation = ARGV[9], tonumber(ARGV[10] or '0')

local room = load(meta)
local shares = redis.call('HGETALL', nodes)
if not room then
  if members == 0 and #shares == 0 then
    return { 'none' }
  end
  room = begin({}, epoch, run)
  save_new(meta, history, room, meta_ttl)
end

local online, dropped, watched = members, 0, '0'
for index = 1, #shares, 2 do
  local other, mark, count, expiry = shares[index], string.match(shares[index + 1], '^(0?)(%d+) (%d+)$')
  if other ~= node then
    if count and tonumber(expiry) > now then
      online = online + tonumber(count)
      if mark == '0' then
        watched = '1'
      end
    elseif dropped < 16 then
      redis.call('HDEL', nodes, other)
      dropped = dropped + 1
    end
  end
end
if members > 0 then
  redis.call('HSET', nodes, node, (watches and '0' or '') .. digits(members) .. ' ' .. digits(now + lease))
  redis.call('PEXPIRE', nodes, lease * 2)
else
  redis.call('HDEL', nodes, node)
end
redis.call('PEXPIRE', meta, meta_ttl)

if holder then
  -- The latest login holds the user. One that Redis has lost is made known again.
  local is_later = generation > room.g
  if is_later or (generation == room.g and (not room.hn or room.hn == holder)) then
    room.g = generation
    redis.call('HSET', meta, 'g', digits(generation), 'hn', holder, 'hx', digits(now + lease))
    if is_later then
      redis.call('PUBLISH', feed, 'g ' .. digits(generation))
    end
  end
end
return { 'ok', room.e, digits(room.o), digits(online), digits(room.g), watched }
