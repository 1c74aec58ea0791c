-- Gives some jobs of a batch back, which its worker will not run soon: to the head of their queue, in
-- their order, as if they had not been claimed. The rest stays the worker's.
--
-- ARGV  1 worker   2 token   3 queue   4.. ids
-- Reply 0; jobs that are no longer the batch's are passed over, so that a repeated call does nothing
-- Writes K.job..id, K.wip..queue, K.queue..queue, K.deadlines, K.bell..queue; where the queue's key was
--        overwritten, K.batch..token and K.leases, as batch.lua's give_back
--
-- It is sent before the finish of the batch and counts as the first of its calls, so that no finish ends
-- a batch whose rest was not given back. A worker that dies in between holds what it has run, and nothing
-- else is charged with its death.
--- use clock
--- use ended
--- use bell
--- use batch

local WORKER, TOKEN, QUEUE = ARGV[1], ARGV[2], ARGV[3]
local batch = redis.call('HMGET', K.batch .. WORKER, 'token', 'ids', 'calls')
if batch[1] ~= TOKEN then return 0 end

-- Only a write that needs no memory: after it, a full Redis lets the script go on writing.
redis.call('PERSIST', K.batch .. WORKER)
local ids = {}
for i = 4, #ARGV do ids[#ids + 1] = ARGV[i] end
local listed = table.concat(ids, ' ')
if is_queue(QUEUE) then
  return_jobs(WORKER, TOKEN, QUEUE, listed, now_us(), 'released')
else
  redis.call('HSET', K.batch .. TOKEN, 'token', TOKEN, 'queue', QUEUE, 'ids', listed, 'released', 1)
  redis.call('ZADD', K.leases, string.format('%.0f', now_us() / 1000 + LATER_MS), TOKEN)
end
-- The batch is what was run: a single job is then known to be the one that is late.
local gone, kept = {}, {}
for i = 1, #ids do gone[ids[i]] = true end
for id in string.gmatch(batch[2], '[^ ]+') do
  if not gone[id] then kept[#kept + 1] = id end
end
redis.call('HSET', K.batch .. WORKER, 'ids', table.concat(kept, ' '),
  'calls', math.max(1, tonumber(batch[3] or '') or 0))
return 0
