-- What every pool does twice a second: returns batches whose lease has run out, and fails queued jobs
-- whose deadline has passed.
--
-- ARGV  1 crashes after which a job fails   2 failure TTL (s)   3 '1' to look at leases
--       4 most leases   5 most deadlines
--       6, 7 error JSON and RQ exc_string of worker_crashed   8, 9 the same of expired
-- Reply jobs expired, then a list for each lease: worker, queue, given back, failed
-- Writes what batch.lua's give_back writes, K.deadlines, K.job..id, K.queue..queue
--- use clock
--- use ended
--- use bell
--- use batch

local MOST, TTL = tonumber(ARGV[1]), tonumber(ARGV[2])
local us = now_us()
local reply = {0}

if ARGV[3] == '1' then
  local now_ms = string.format('%.0f', us / 1000)
  local gone = redis.call('ZRANGEBYSCORE', K.leases, '-inf', now_ms, 'LIMIT', 0, ARGV[4])
  for _, worker in ipairs(gone) do
    local queue, back, failed = give_back(worker, 'died', MOST,
      {'worker_crashed', ARGV[6], ARGV[7]}, nil, TTL)
    reply[#reply + 1] = {worker, queue or '', back or 0, failed or 0}
  end
end

local due = redis.call('ZRANGEBYSCORE', K.deadlines, '-inf', string.format('%.0f', us),
  'LIMIT', 0, ARGV[5])
for _, id in ipairs(due) do
  redis.call('ZREM', K.deadlines, id)
  local job = redis.call('HMGET', K.job .. id, 'status', 'origin', 'my_attempts')
  if job[1] == 'queued' and job[2] and (tonumber(job[3] or '0') or 0) == 0 then
    redis.call('LREM', K.queue .. job[2], 1, id)
    fail(id, job[2], us, '', {'expired', ARGV[8], ARGV[9]}, TTL)
    reply[1] = reply[1] + 1
  end
end
return reply
