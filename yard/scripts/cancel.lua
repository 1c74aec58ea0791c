-- Cancels a job that has not ended. A started one goes on in its batch, and its output is dropped:
-- the token is gone, so the worker's finish finds nothing to write.
--
-- ARGV  1 id   2 result TTL (s)
-- Reply canceled (now or before) | ended | unknown
-- Writes K.job..id, K.results..id, K.queue..queue, K.wip..queue, K.canceled..queue, K.deadlines
--- use clock
--- use ended

local id, ttl = ARGV[1], tonumber(ARGV[2])
local job = redis.call('HMGET', K.job .. id, 'status', 'origin', 'my_token')
local status, queue, token = job[1], job[2] or '', job[3] or ''

if not status then return 'unknown' end
if status == 'canceled' or status == 'stopped' then return 'canceled' end
if status == 'finished' or status == 'failed' then return 'ended' end

redis.pcall('LREM', K.queue .. queue, 1, id)
redis.pcall('ZREM', K.deadlines, id)
if token ~= '' then redis.pcall('ZREM', K.wip .. queue, id .. ':' .. token) end
local us = now_us()
local now_s = math.floor(us / 1000000)
end_job(id, 'canceled', iso(us), ttl, 3, '', 'reason', 'canceled')
file(K.canceled .. queue, {now_s + ttl, id}, now_s)
tell({id})
return 'canceled'
