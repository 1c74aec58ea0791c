-- Notes since when jobs wait in queues without a break. A job that others pushed is believed to have
-- waited no longer: its date is by a clock that nobody has checked.
--
-- ARGV  queues
-- Reply for each queue, in us, since when it was seen with jobs; 0 where it has none
-- Writes K.waiting (hash: queue -> us)
--- use clock

local us, replies = string.format('%.0f', now_us()), {}
if redis.call('TYPE', K.waiting)['ok'] ~= 'hash' then redis.call('DEL', K.waiting) end
for i = 1, #ARGV do
  local depth = redis.pcall('LLEN', K.queue .. ARGV[i])
  local since = redis.call('HGET', K.waiting, ARGV[i])
  if type(depth) == 'table' or depth == 0 then
    if since then redis.call('HDEL', K.waiting, ARGV[i]) end
    replies[i] = '0'
  else
    if not since then redis.call('HSET', K.waiting, ARGV[i], us) end
    replies[i] = since or us
  end
end
redis.call('EXPIRE', K.waiting, K.waiting_ttl)
return replies
