-- Announces that a worker or a pool is alive, until the announcement expires.
--
-- ARGV  1 'worker' | 'pool'   2 its name   3 its key   4 the announcement (JSON)   5 TTL (s)
-- Writes K.presence (sorted set: kind:name -> expiry in ms), the key
--- use clock

local now_ms = now_us() / 1000
local ttl = tonumber(ARGV[5])
-- Free memory first: a full Redis lets a script that begins so go on writing.
redis.call('ZREMRANGEBYSCORE', K.presence, '-inf', string.format('%.0f', now_ms))
redis.call('SET', ARGV[3], ARGV[4], 'EX', ttl)
redis.call('ZADD', K.presence, string.format('%.0f', now_ms + ttl * 1000), ARGV[1] .. ':' .. ARGV[2])
