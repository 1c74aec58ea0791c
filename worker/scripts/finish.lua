-- Ends jobs of a batch, each once: only where it is started and its token still the batch's.
--
-- A large batch takes several calls, sent one behind the other without waiting, so that none holds
-- Redis for long. The last of them ends the batch and its lease.
--
-- ARGV  1 worker   2 token   3 queue   4 which of the batch's calls this is, from 1   5 of how many
--       6 number of jobs   7 number of metrics   8 information on the run (JSON)
--       then for each job four: id, TTL (s), payload, error (JSON) or '' if it finished
--       then for each metric two: field of K.metrics, increment
-- Reply number of jobs written; writing twice writes nothing. -1, and nothing is done, where the call
--       before this one was not carried out (a server that has just started did not know the
--       script): all are to be sent again.
-- Reads  K.batch..worker, K.job..id
-- Writes K.results..id, K.job..id, K.finished..queue, K.failed..queue, K.canceled..queue,
--        K.wip..queue, K.metrics, K.batch..worker, K.leases, K.worker..worker; publishes K.ended
--
-- The batch that was claimed ahead, if any, becomes the worker's with the last call.
--- use clock
--- use ended

local WORKER, TOKEN, QUEUE, CALL, CALLS = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5]
local JOBS, METRICS, RUN = tonumber(ARGV[6]), tonumber(ARGV[7]), ARGV[8]
local FIRST_JOB, FIRST_METRIC = 9, 9 + 4 * JOBS
local BATCH = K.batch .. WORKER

local batch = redis.call('HMGET', BATCH, 'token', 'calls', 'next_token', 'next_queue', 'next_ids',
  'next_ms')
local is_held = batch[1] == TOKEN
if is_held and (tonumber(batch[2] or '') or 0) < CALL - 1 then return -1 end

-- Begins with what frees memory: a full Redis lets a script that has begun so go on writing.
local wip = {''}
for i = FIRST_JOB, FIRST_METRIC - 1, 4 do wip[#wip + 1] = ARGV[i] .. ':' .. TOKEN end
redis.pcall('ZREM', K.wip .. QUEUE, unpack(wip))

local us = now_us()
local at, now_s = iso(us), math.floor(us / 1000000)
local finished, failed, canceled, ended = {}, {}, {}, {}

local function note(registry, id, ttl)
  registry[#registry + 1] = now_s + ttl
  registry[#registry + 1] = id
  ended[#ended + 1] = id
end

for i = FIRST_JOB, FIRST_METRIC - 1, 4 do
  local id, ttl, failure = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 3]
  local job = redis.pcall('HMGET', K.job .. id, 'my_token', 'status')
  if job[1] ~= TOKEN then -- canceled by us, or given to others
  elseif job[2] == 'canceled' then -- by RQ's own means, which only say so
    end_job(id, 'canceled', at, ttl, 3, '', 'reason', 'canceled')
    note(canceled, id, ttl)
  elseif job[2] == 'started' and failure == '' then
    end_job(id, 'finished', at, ttl, 1, WORKER, 'return_value', ARGV[i + 2], 'my_run', RUN)
    note(finished, id, ttl)
  elseif job[2] == 'started' then
    end_job(id, 'failed', at, ttl, 2, WORKER, 'exc_string', ARGV[i + 2], 'my_run', RUN,
      'my_error', failure)
    note(failed, id, ttl)
  end
end
file(K.finished .. QUEUE, finished, now_s)
file(K.failed .. QUEUE, failed, now_s)
file(K.canceled .. QUEUE, canceled, now_s)
tell(ended)

-- Counts jobs in RQ's entry of the worker.
local function add_to(field, jobs)
  if jobs > 0 then redis.pcall('HINCRBY', K.worker .. WORKER, field, jobs) end
end
add_to('successful_job_count', #finished / 2)
add_to('failed_job_count', #failed / 2)

local function add_metrics()
  for i = FIRST_METRIC, FIRST_METRIC + 2 * METRICS - 1, 2 do
    local is_whole = not string.find(ARGV[i + 1], '%D')
    redis.pcall(is_whole and 'HINCRBY' or 'HINCRBYFLOAT', K.metrics, ARGV[i], ARGV[i + 1])
  end
end

-- Ends the batch; returns the worker's state after it, and its current job, if it has one.
local function end_batch()
  if batch[3] and batch[3] ~= '' then
    redis.call('HSET', BATCH, 'token', batch[3], 'queue', batch[4], 'ids', batch[5], 'calls', 0,
      'deadline_ms', string.format('%.0f', us / 1000 + tonumber(batch[6])), 'next_token', '')
    return 'busy', string.match(batch[5], '^[^ ]*')
  end
  redis.call('DEL', BATCH)
  redis.call('ZREM', K.leases, WORKER)
  return 'idle'
end

if ARGV[4] ~= CALLS then
  if is_held then redis.call('HSET', BATCH, 'calls', CALL) end
elseif is_held or not batch[1] then -- not where the worker has gone on to another batch
  local state, current_job = 'idle', nil
  if is_held then
    add_metrics()
    state, current_job = end_batch()
  end
  redis.pcall('HSET', K.worker .. WORKER, 'state', state)
  -- RQ's tools look up the job of this field: it is absent where there is none.
  if current_job then
    redis.pcall('HSET', K.worker .. WORKER, 'current_job', current_job)
  else
    redis.pcall('HDEL', K.worker .. WORKER, 'current_job')
  end
  redis.call('EXPIRE', K.worker .. WORKER, K.worker_ttl)
end
return #ended - #canceled / 2
