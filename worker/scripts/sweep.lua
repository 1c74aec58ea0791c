-- What every pool does twice a second: returns batches whose lease has run out, and fails queued jobs
-- whose deadline has passed.
--
-- ARGV  1 crashes after which a job fails   2 failure TTL (s)   3 lease (ms)
--       4 most leases   5 most deadlines
--       6, 7 error JSON and RQ exc_string of worker_crashed   8, 9 the same of expired
-- Reply jobs expired, then a list for each lease: worker, queue, given back, failed
-- Writes what batch.lua's give_back writes, K.swept, K.deadlines, K.job..id, K.queue..queue
--- use clock
--- use ended
--- use bell
--- use batch

local MOST, TTL, LEASE_MS = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
-- Sweeps further apart than this, in ms, say that Redis was away; half a lease, for a worker has
-- that much left at least when Redis goes, or three sweeps.
local GAP_MS = math.max(LEASE_MS / 2, 1500)

local us = now_us()
local now_ms = us / 1000
local reply = {0}

-- Whether leases mean something now. Redis' clock goes on while Redis stands still, or is down, and
-- nobody can renew: after that, workers that live get a lease's time to say so. It is told here, and
-- not by the pools, because a sweep may itself have waited in a buffer all the while.
local function may_take()
  local kept = redis.pcall('HMGET', K.swept, 'at', 'spare_until')
  local at, spare_until = tonumber(kept[1] or ''), tonumber(kept[2] or '')
  if not at or not spare_until or now_ms - at > GAP_MS or now_ms < at then
    spare_until = now_ms + LEASE_MS
  end
  -- A write that needs no memory comes first: a full Redis lets the script go on writing after it.
  redis.call(kept.err and 'DEL' or 'PERSIST', K.swept)
  redis.call('HSET', K.swept, 'at', string.format('%.0f', now_ms),
    'spare_until', string.format('%.0f', spare_until))
  return now_ms >= spare_until
end

if may_take() then
  local gone = redis.call('ZRANGEBYSCORE', K.leases, '-inf', string.format('%.0f', now_ms),
    'LIMIT', 0, ARGV[4])
  for _, worker in ipairs(gone) do
    local is_read, queue, back, failed = pcall(give_back, worker, 'died', MOST,
      {'worker_crashed', ARGV[6], ARGV[7]}, nil, TTL)
    if not is_read then -- what is under its name is no batch: it must not hide the others
      redis.call('ZADD', K.leases, string.format('%.0f', now_ms + LATER_MS), worker)
      queue, back, failed = '', 0, 0
    end
    reply[#reply + 1] = {worker, queue or '', back or 0, failed or 0}
  end
end

local due = redis.call('ZRANGEBYSCORE', K.deadlines, '-inf', string.format('%.0f', us),
  'LIMIT', 0, ARGV[5])
for _, id in ipairs(due) do
  redis.call('ZREM', K.deadlines, id)
  local job = redis.pcall('HMGET', K.job .. id, 'status', 'origin', 'my_attempts')
  if job[1] == 'queued' and job[2] and count_of(job[3]) == 0 then
    redis.pcall('LREM', K.queue .. job[2], 1, id)
    fail(id, job[2], us, '', {'expired', ARGV[8], ARGV[9]}, TTL)
    reply[1] = reply[1] + 1
  end
end
return reply
