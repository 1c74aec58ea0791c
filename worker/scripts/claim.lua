-- Takes a batch: up to so many jobs of the first queue that has any, under a lease, in one step.
--
-- ARGV  1 worker   2 token       3 moment (us of the worker's own clock: tells its calls' order)
--       4 lease (ms)             5 most jobs   6 most rows
--       7 most payload bytes a job   8 most payload bytes a batch
--       9 default timeout (s)    10 most timeout (s)
--       11 '' | the token of the batch that the worker has, to take the next one ahead
--       12 '1' where the worker has given up an earlier call, which may come after this one
--       13.. queues, in the order to look
-- Reply suspended                  `rq suspend` is in force
--       idle, skipped              nothing to take, or a call that came late; so many entries were
--                                  no job to run
--       batch, queue, now (us), shortest timeout (s), whether more wait (1 | 0), then
--       one list, for each job eight:
--           id, created_at, attempt, crashes, result_ttl, failure_ttl, flaw, data
--           flaw is '' or expired | too_large | status, and data is empty where there is one
-- Reads  K.suspended, and all that it writes but K.deadlines and K.metrics
-- Writes K.queue..queue, K.job..id, K.batch..worker, K.leases, K.wip..queue, K.worker..worker,
--        K.deadlines, K.quarantine, K.metrics, K.bell..queue
--
-- A job that has crashed a worker before is taken alone, and never ahead. If an earlier claim of this
-- worker was not ended (its reply was lost), its jobs are given back first. A call that Redis gets to
-- only after a later one (it was in a buffer while Redis stood still, and its worker has given it up)
-- does nothing: the worker's entry keeps the moment of the last claim that took a batch, or that knew
-- of one given up (my_claim).
--
-- A script has no way back, so all is read first, then the batch and its lease are written, then the
-- jobs, and last the queue is cut: an error on the way leaves an id in two places, never in none.
--- use clock
--- use ended
--- use bell
--- use batch

local WORKER, TOKEN, MOMENT, LEASE_MS = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local MOST_JOBS, MOST_ROWS = tonumber(ARGV[5]), tonumber(ARGV[6])
local MOST_JOB_BYTES, MOST_BYTES = tonumber(ARGV[7]), tonumber(ARGV[8])
local TIMEOUT, MOST_TIMEOUT = tonumber(ARGV[9]), tonumber(ARGV[10])
local AHEAD_OF, MAY_COME_LATE, FIRST_QUEUE = ARGV[11], ARGV[12] == '1', 13
-- Queues after the batch's own that are asked whether they hold any jobs.
local LOOK_AHEAD = 16

-- The field that whoever ended or started the job has written with the status.
local TRACE = {finished = 'ended_at', failed = 'ended_at', canceled = 'ended_at',
  stopped = 'ended_at', started = 'started_at'}

-- Tells this call from those before it; more fields of the worker's entry may go with it.
local function note_claim(...)
  redis.pcall('HSET', K.worker .. WORKER, 'my_claim', string.format('%.0f', MOMENT), ...)
  redis.call('EXPIRE', K.worker .. WORKER, K.worker_ttl)
end

if redis.call('EXISTS', K.suspended) == 1 then return {'suspended'} end
if AHEAD_OF ~= '' then -- of a call that comes late, this tells, too
  local held = redis.call('HMGET', K.batch .. WORKER, 'token', 'next_token')
  if held[1] ~= AHEAD_OF then return {'idle', 0} end
  if is_token(held[2]) and not select(2, give_back_next(WORKER)) then return {'idle', 0} end
else
  local last = redis.pcall('HGET', K.worker .. WORKER, 'my_claim')
  if type(last) == 'string' and tonumber(last) > MOMENT then return {'idle', 0} end
  -- Begins with what frees memory: a full Redis lets a script that has begun so go on writing.
  redis.pcall('LTRIM', K.quarantine, 0, K.quarantine_length - 1)
  if MAY_COME_LATE then note_claim() end
  if redis.call('EXISTS', K.batch .. WORKER) == 1 then give_back(WORKER, 'released') end
end

local us = now_us()
local started_at = iso(us)
local skipped = 0

-- Sets aside what cannot be read, for the operator to see.
local function quarantine(queue, id, reason)
  local shown = string.gsub(string.sub(id, 1, 200), '[^%w%p ]', '?')
  redis.pcall('LPUSH', K.quarantine,
    cjson.encode({queue = queue, id = shown, reason = reason, at = started_at}))
  redis.pcall('HINCRBY', K.metrics, 'jobs_quarantined_total', 1)
  skipped = skipped + 1
end

-- What keeps a job from being run although it is one; '' if nothing does.
local function flaw_of(status, data, deadline, attempts)
  if status ~= 'queued' then return 'status' end
  if #data > MOST_JOB_BYTES then return 'too_large' end
  if deadline and attempts == 0 and us > (tonumber(deadline) or us) then return 'expired' end
  return ''
end

-- A job's timeout in seconds, within bounds. Most jobs of a batch have the same.
local timeouts = {}
local function timeout_of(text)
  if not text then return TIMEOUT end
  local seconds = timeouts[text]
  if not seconds then
    seconds = TIMEOUT
    if #text <= 9 and string.match(text, '^%d+$') then
      seconds = math.max(1, math.min(tonumber(text), MOST_TIMEOUT))
    end
    timeouts[text] = seconds
  end
  return seconds
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
  local trace = TRACE[status]
  if not trace then return job end
  if redis.call('HEXISTS', K.job .. id, trace) == 0 then
    return quarantine(queue, id, 'its status is ' .. status .. ', and nobody made it so')
  end
  skipped = skipped + 1
end

-- Looks at one queue: its jobs that fit into a batch, how many entries they and what is skipped
-- between them are, and the shortest timeout in seconds. Writes nothing but what is set aside.
-- The jobs are lists side by side: a table for each job would cost more than reading it.
local function look(queue)
  local jobs = {ids = {}, attempts = {}, timeouts = {}, dues = {}, is_foreign = {}, replies = {}}
  local found = redis.pcall('LRANGE', K.queue .. queue, 0, MOST_JOBS - 1)
  if found.err then return jobs, 0, 0 end
  local count, used, rows, bytes, timeout, seen, replies = 0, 0, 0, 0, MOST_TIMEOUT, {}, jobs.replies
  for i = 1, #found do
    local id = found[i]
    local job = not seen[id] and read(queue, id)
    if job then
      local data, due, crashes = job[2] or '', job[5], count_of(job[4])
      local alone = crashes > 0
      rows, bytes = rows + math.max(1, count_of(job[10])), bytes + #data
      if alone and AHEAD_OF ~= '' then break end
      if count > 0 and (alone or rows > MOST_ROWS or bytes > MOST_BYTES) then break end
      local attempts, own_timeout = count_of(job[3]), timeout_of(job[6])
      local flaw = flaw_of(job[1], data, due, attempts)
      seen[id] = true
      replies[8 * count + 1], replies[8 * count + 2] = id, job[9] or ''
      replies[8 * count + 3], replies[8 * count + 4] = attempts + 1, crashes
      replies[8 * count + 5], replies[8 * count + 6] = job[7] or '', job[8] or ''
      replies[8 * count + 7], replies[8 * count + 8] = flaw, flaw == '' and data or ''
      count = count + 1
      jobs.ids[count], jobs.attempts[count] = id, attempts + 1
      jobs.timeouts[count], jobs.dues[count] = own_timeout, due
      jobs.is_foreign[count] = not job[10]
      if own_timeout < timeout then timeout = own_timeout end
      used = used + 1
      if alone then break end
    else
      used = used + 1
    end
  end
  return jobs, used, timeout
end

-- Writes the batch, of jobs that may run so many seconds: as the worker's only one, or as its next.
local function hold(queue, ids, timeout)
  redis.call('ZADD', K.leases, string.format('%.0f', us / 1000 + LEASE_MS), WORKER)
  if AHEAD_OF ~= '' then
    redis.call('HSET', K.batch .. WORKER, 'next_token', TOKEN, 'next_queue', queue,
      'next_ids', ids, 'next_ms', timeout * 1000)
  else
    redis.call('HSET', K.batch .. WORKER, 'token', TOKEN, 'queue', queue,
      'ids', ids, 'calls', 0, 'deadline_ms', string.format('%.0f', us / 1000 + timeout * 1000))
  end
end

-- Makes jobs this worker's.
local function take(queue, jobs, timeout)
  local ids, wip, suffix = jobs.ids, {}, ':' .. TOKEN
  hold(queue, table.concat(ids, ' '), timeout)
  local wip_from = math.floor(us / 1000000) + K.wip_margin
  for i = 1, #ids do
    local id = ids[i]
    local key = K.job .. id
    redis.call('HSET', key, 'status', 'started', 'started_at', started_at,
      'worker_name', WORKER, 'my_token', TOKEN, 'my_attempts', jobs.attempts[i], 'origin', queue)
    -- RQ's `ttl` is how long a job may wait, not how long it may run. What submit.lua made has none.
    if jobs.is_foreign[i] then redis.call('PERSIST', key) end
    if jobs.dues[i] then redis.pcall('ZREM', K.deadlines, id) end
    wip[2 * i - 1], wip[2 * i] = wip_from + jobs.timeouts[i], id .. suffix
  end
  redis.pcall('ZADD', K.wip .. queue, unpack(wip))
  if AHEAD_OF == '' then note_claim('state', 'busy', 'current_job', ids[1]) end
end

-- Whether more wait in a queue, or in one of those that come next.
local function is_more(i)
  if redis.call('EXISTS', K.queue .. ARGV[i]) == 1 then
    ring(ARGV[i])
    return 1
  end
  local others = {}
  for next = i + 1, math.min(i + LOOK_AHEAD, #ARGV) do others[next - i] = K.queue .. ARGV[next] end
  return #others > 0 and redis.call('EXISTS', unpack(others)) > 0 and 1 or 0
end

for i = FIRST_QUEUE, #ARGV do
  local queue = ARGV[i]
  local jobs, used, timeout = look(queue)
  local any = #jobs.ids > 0
  if any then take(queue, jobs, timeout) end
  if used > 0 then redis.call('LTRIM', K.queue .. queue, used, -1) end
  if any then
    return {'batch', queue, string.format('%.0f', us), timeout, is_more(i), jobs.replies}
  end
end
return {'idle', skipped}
