-- For how long this run of Redis has been seen, in milliseconds. KEYS[1] holds the run and when it was
-- seen first.

local run = ARGV[1]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local seen, first = string.match(redis.call('GET', KEYS[1]) or '', '^(%S+) (%d+)$')
if seen ~= run or tonumber(first) > now then
  redis.call('SET', KEYS[1], run .. ' ' .. string.format('%.0f', now))
  return '0'
end
return string.format('%.0f', now - tonumber(first))
