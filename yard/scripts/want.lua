-- Requests that the pools load versions before these get traffic, and wakes idle workers for it.
--
-- ARGV  1 lifetime of the request (ms)   2.. queues of the versions
-- Reply the time of the request, in ms: a failure that a worker reports for it, or for a later one,
--       is of a load that began after it
-- Writes K.wanted (hash: queue -> "time end", both in ms), drops requests that have ended
--- use clock
--- use bell

local now_ms = math.floor(now_us() / 1000)
local kind = redis.call('TYPE', K.wanted)['ok']
if kind ~= 'hash' and kind ~= 'none' then redis.call('DEL', K.wanted) end
local known = redis.call('HGETALL', K.wanted)
for i = 1, #known, 2 do
  local ends = tonumber(string.match(known[i + 1], ' (%d+)$') or '0')
  if ends <= now_ms then redis.call('HDEL', K.wanted, known[i]) end
end
local request = string.format('%.0f %.0f', now_ms, now_ms + tonumber(ARGV[1]))
for i = 2, #ARGV do
  redis.call('HSET', K.wanted, ARGV[i], request)
  ring(ARGV[i])
end
redis.call('EXPIRE', K.wanted, K.wanted_ttl)
return string.format('%.0f', now_ms)
