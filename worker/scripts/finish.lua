-- Ends jobs of a batch, each once: only where its token is still the batch's. Every way out of
-- `started` takes the token away, so the token alone tells.
--
-- ARGV  1 worker   2 token   3 queue   4 '1' if these are the batch's last   5 jobs   6 measures
--       7 what there is to know of the run (JSON)
--       then for each job four: id, TTL (s), payload, error (JSON) or '' if it finished
--       then for each measure two: field of K.metrics, increment
-- Reply how many were written; writing twice writes nothing. The batch that was taken ahead, if there
--       is one, becomes the worker's with the last of this one.
-- Writes K.results..id, K.job..id, K.finished..queue, K.failed..queue, K.wip..queue, K.metrics,
--        K.batch..worker, K.leases, K.worker..worker
--- use clock
--- use ended

local WORKER, TOKEN, QUEUE, IS_LAST = ARGV[1], ARGV[2], ARGV[3], ARGV[4] == '1'
local JOBS, MEASURES = tonumber(ARGV[5]), tonumber(ARGV[6])
local RUN, FIRST_MEASURE = ARGV[7], 8 + 4 * JOBS

-- What frees memory goes first: a full Redis lets a script that has begun to free go on writing.
local wip = {''}
for i = 8, FIRST_MEASURE - 1, 4 do wip[#wip + 1] = ARGV[i] .. ':' .. TOKEN end
redis.pcall('ZREM', K.wip .. QUEUE, unpack(wip))

local us = now_us()
local at, now_s = iso(us), math.floor(us / 1000000)
local finished, failed, ended = {}, {}, {}
for i = 8, FIRST_MEASURE - 1, 4 do
  local id, ttl, failure = ARGV[i], tonumber(ARGV[i + 1]), ARGV[i + 3]
  if redis.pcall('HGET', K.job .. id, 'my_token') == TOKEN then
    if failure == '' then
      end_job(id, 'finished', at, ttl, 1, WORKER, 'return_value', ARGV[i + 2], 'my_run', RUN)
      finished[#finished + 1] = now_s + ttl
      finished[#finished + 1] = id
    else
      end_job(id, 'failed', at, ttl, 2, WORKER, 'exc_string', ARGV[i + 2], 'my_run', RUN,
        'my_error', failure)
      failed[#failed + 1] = now_s + ttl
      failed[#failed + 1] = id
    end
    ended[#ended + 1] = id
  end
end
file(K.finished .. QUEUE, finished, now_s)
file(K.failed .. QUEUE, failed, now_s)
tell(ended)

if #ended > 0 then
  for i = FIRST_MEASURE, FIRST_MEASURE + 2 * MEASURES - 1, 2 do
    local is_whole = not string.find(ARGV[i + 1], '%D')
    redis.pcall(is_whole and 'HINCRBY' or 'HINCRBYFLOAT', K.metrics, ARGV[i], ARGV[i + 1])
  end
end
-- Counts jobs in RQ's entry of the worker.
local function add_to(field, jobs)
  if jobs > 0 then redis.pcall('HINCRBY', K.worker .. WORKER, field, jobs) end
end

if IS_LAST then
  local batch = redis.call('HMGET', K.batch .. WORKER,
    'token', 'next_token', 'next_queue', 'next_ids', 'next_ms')
  local state, current_job = 'idle', ''
  if batch[1] and batch[1] ~= TOKEN then
    state = nil
  elseif batch[2] and batch[2] ~= '' then
    state, current_job = 'busy', string.match(batch[4], '^[^ ]*')
    redis.call('HSET', K.batch .. WORKER, 'token', batch[2], 'queue', batch[3], 'ids', batch[4],
      'deadline_ms', string.format('%.0f', us / 1000 + tonumber(batch[5])), 'next_token', '')
  elseif batch[1] then
    redis.call('DEL', K.batch .. WORKER)
    redis.call('ZREM', K.leases, WORKER)
  end
  if state then
    redis.pcall('HSET', K.worker .. WORKER, 'state', state, 'current_job', current_job)
  end
  add_to('successful_job_count', #finished / 2)
  add_to('failed_job_count', #failed / 2)
  redis.call('EXPIRE', K.worker .. WORKER, K.worker_ttl)
end
return #ended
