-- Renews a worker's lease from now, if the batch, or the one that was claimed ahead, is still the
-- worker's.
--
-- ARGV  1 worker   2 token   3 lease (ms)
-- Reply 1 kept | 0 lost: the jobs have been given to others
-- Writes K.leases, K.swept
--- use clock
--- use presence

local tokens = redis.call('HMGET', K.batch .. ARGV[1], 'token', 'next_token')
if tokens[1] ~= ARGV[2] and tokens[2] ~= ARGV[2] then return 0 end
-- Only a write that needs no memory: after it, a full Redis lets the script go on writing.
redis.call('PERSIST', K.batch .. ARGV[1])
local now_ms, lease_ms = now_us() / 1000, tonumber(ARGV[3])
note_presence(now_ms, lease_ms)
redis.call('ZADD', K.leases, string.format('%.0f', now_ms + lease_ms), ARGV[1])
return 1
