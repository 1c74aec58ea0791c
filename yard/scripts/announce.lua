-- Says that a worker or a pool is alive, and what it holds, for a while.
--
-- ARGV  1 'worker' | 'pool'   2 its name   3 its key   4 what it holds (JSON)   5 for how long (s)
-- Writes K.presence (sorted set: kind:name -> expiry in ms), the key
--- use clock

local now_ms = now_us() / 1000
local ttl = tonumber(ARGV[5])
-- First what frees memory: a full Redis lets a script that has begun so go on writing.
redis.call('ZREMRANGEBYSCORE', K.presence, '-inf', string.format('%.0f', now_ms))
redis.call('SET', ARGV[3], ARGV[4], 'EX', ttl)
redis.call('ZADD', K.presence, string.format('%.0f', now_ms + ttl * 1000), ARGV[1] .. ':' .. ARGV[2])
