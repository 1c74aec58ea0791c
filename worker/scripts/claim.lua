-- Takes a batch: up to so many jobs of the first queue that has any, under a lease, in one step.
--
-- ARGV  1 worker   2 token       3 lease (ms)      4 most jobs   5 most rows
--       6 most payload bytes a job   7 most payload bytes a batch
--       8 default timeout (s)    9 most timeout (s)
--       10.. queues, in the order to look
-- Reply suspended                  `rq suspend` is in force
--       idle, skipped              nothing to do; so many entries were no job to run
--       batch, queue, now (us), deadline (us), skipped, then a list for each job:
--           id, created_at, attempt, crashes, result_ttl, failure_ttl, flaw, data
--           flaw is '' or expired | too_large | status, and data is empty where there is one
-- Writes K.queue..queue, K.job..id, K.batch..worker, K.leases, K.wip..queue, K.worker..worker,
--        K.quarantine, K.metrics, K.bell..queue
--
-- A job that has crashed a worker before is taken alone. If an earlier claim of this worker was not
-- ended (its reply was lost), its jobs are given back first.
--- use clock
--- use ended
--- use bell
--- use batch

local WORKER, TOKEN, LEASE_MS = ARGV[1], ARGV[2], tonumber(ARGV[3])
local MOST_JOBS, MOST_ROWS = tonumber(ARGV[4]), tonumber(ARGV[5])
local MOST_JOB_BYTES, MOST_BYTES = tonumber(ARGV[6]), tonumber(ARGV[7])
local TIMEOUT, MOST_TIMEOUT = tonumber(ARGV[8]), tonumber(ARGV[9])

local ENDED = {finished = true, failed = true, canceled = true, stopped = true, started = true}

if redis.call('EXISTS', K.suspended) == 1 then return {'suspended'} end
-- Begins with what frees memory: a full Redis lets a script that has begun so go on writing.
redis.call('LTRIM', K.quarantine, 0, K.quarantine_length - 1)
if redis.call('EXISTS', K.batch .. WORKER) == 1 then give_back(WORKER, 'released') end

local us = now_us()
local started_at = iso(us)
local skipped = 0

-- Sets aside what cannot be read, for the operator to see.
local function quarantine(queue, id, reason)
  local shown = string.gsub(string.sub(id, 1, 200), '[^%w%p ]', '?')
  redis.call('LPUSH', K.quarantine,
    cjson.encode({queue = queue, id = shown, reason = reason, at = started_at}))
  redis.call('HINCRBY', K.metrics, 'jobs_quarantined_total', 1)
  skipped = skipped + 1
end

-- What keeps a job from being run although it is one; '' if nothing does.
local function flaw_of(status, data, deadline, attempts)
  if status ~= 'queued' then return 'status' end
  if #data > MOST_JOB_BYTES then return 'too_large' end
  if deadline and attempts == 0 and us > (tonumber(deadline) or us) then return 'expired' end
  return ''
end

-- A job's timeout in seconds, within bounds.
local function timeout_of(text)
  if not text or #text > 9 or not string.match(text, '^%d+$') then return TIMEOUT end
  return math.max(1, math.min(tonumber(text), MOST_TIMEOUT))
end

-- The fields of the job that an entry names; nil where it is none that can run.
local function read(queue, id)
  if #id > 64 or not string.match(id, '^[%w_-]+$') then
    return quarantine(queue, id, 'not a job id')
  end
  local job = redis.pcall('HMGET', K.job .. id, 'status', 'data', 'my_attempts', 'my_crashes',
    'my_deadline', 'timeout', 'result_ttl', 'failure_ttl', 'created_at', 'my_rows')
  if job.err then return quarantine(queue, id, 'its key is no hash') end
  local status = job[1]
  if not status then return quarantine(queue, id, 'no such job') end
  if ENDED[status] then
    skipped = skipped + 1
    return nil
  end
  return job
end

-- Takes jobs off one queue: the reply's lists, their ids, and the shortest timeout in seconds.
local function take(queue)
  local ids = redis.pcall('LRANGE', K.queue .. queue, 0, MOST_JOBS - 1)
  local replies, taken, wip, used = {}, {}, {}, 0
  if ids.err then return replies, taken, 0 end
  local rows, bytes, timeout, seen = 0, 0, MOST_TIMEOUT, {}
  local wip_from = math.floor(us / 1000000) + K.wip_margin
  for _, id in ipairs(ids) do
    local job = not seen[id] and read(queue, id)
    if job then
      local data, alone = job[2] or '', job[4] ~= false and job[4] ~= '0'
      rows, bytes = rows + (tonumber(job[10] or '1') or 1), bytes + #data
      if #taken > 0 and (alone or rows > MOST_ROWS or bytes > MOST_BYTES) then break end
      local attempts, own_timeout = tonumber(job[3] or '0') or 0, timeout_of(job[6])
      local flaw = flaw_of(job[1], data, job[5], attempts)
      redis.call('HSET', K.job .. id, 'status', 'started', 'started_at', started_at,
        'worker_name', WORKER, 'my_token', TOKEN, 'my_attempts', attempts + 1, 'origin', queue)
      seen[id] = true
      taken[#taken + 1] = id
      replies[#replies + 1] = {id, job[9] or '', attempts + 1, tonumber(job[4] or '0') or 0,
        job[7] or '', job[8] or '', flaw, flaw == '' and data or ''}
      wip[#wip + 1] = wip_from + own_timeout
      wip[#wip + 1] = id .. ':' .. TOKEN
      if own_timeout < timeout then timeout = own_timeout end
      used = used + 1
      if alone then break end
    else
      used = used + 1
    end
  end
  redis.call('LTRIM', K.queue .. queue, used, -1)
  if #taken > 0 then redis.call('ZADD', K.wip .. queue, unpack(wip)) end
  return replies, taken, timeout
end

for i = 10, #ARGV do
  local queue = ARGV[i]
  local replies, taken, timeout = take(queue)
  if #taken > 0 then
    local deadline = us + timeout * 1000000
    redis.call('HSET', K.batch .. WORKER, 'token', TOKEN, 'queue', queue,
      'ids', table.concat(taken, ' '), 'deadline_ms', string.format('%.0f', deadline / 1000))
    redis.call('ZADD', K.leases, string.format('%.0f', us / 1000 + LEASE_MS), WORKER)
    redis.call('HSET', K.worker .. WORKER, 'state', 'busy', 'current_job', taken[1])
    redis.call('EXPIRE', K.worker .. WORKER, K.worker_ttl)
    if redis.call('EXISTS', K.queue .. queue) == 1 then ring(queue) end
    return {'batch', queue, string.format('%.0f', us), string.format('%.0f', deadline), skipped,
      unpack(replies)}
  end
end
return {'idle', skipped}
