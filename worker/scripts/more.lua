-- Adds jobs of the same queue to the batch that the call before this one has claimed.
--
-- A batch of more jobs than one call may claim takes claim.lua and, behind it in the same round trip,
-- as many calls of this script as needed, so that no call holds Redis for long.
--
-- ARGV  1 to 9 as in claim.lua
-- Reply as claim.lua's: a batch, which holds the added jobs, or idle
-- Reads and writes as claim.lua, but not K.suspended, K.leases, K.worker..worker and K.bell..queue
--
-- Where the worker has another batch by now, or Redis comes to this call late, it does nothing.
--- use clock
--- use ended
--- use bell
--- use batch
--- use take

local batch = redis.call('HMGET', BATCH, NEXT .. 'token', NEXT .. 'queue', NEXT .. 'ids',
  NEXT .. 'room', DUE)
local queue, ids = batch[2], batch[3]
local rows, bytes, most = string.match(batch[1] == TOKEN and batch[4] or '', '^(%d+) (%d+) (%d+)$')
if not rows then return {'idle', 0} end

-- Begins with what frees memory: a full Redis lets a script that has begun so go on writing.
redis.pcall('LTRIM', K.quarantine, 0, K.quarantine_length - 1)
most = tonumber(most)
local jobs = look(queue, tonumber(rows), tonumber(bytes), most)
local any = #jobs.ids > 0
if any then
  redis.call('HSET', BATCH, NEXT .. 'ids', ids .. ' ' .. table.concat(jobs.ids, ' '),
    NEXT .. 'room', room_of(jobs, most),
    DUE, string.format('%.0f', math.min(tonumber(batch[5]), due_ms(jobs))))
end
take(queue, jobs)
if not any then return {'idle', skipped} end
return {'batch', queue, string.format('%.0f', us), jobs.timeout, 1, jobs.replies}
