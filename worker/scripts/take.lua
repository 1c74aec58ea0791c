-- Reads jobs and makes them a worker's: the part that claim.lua and more.lua share.
--
-- ARGV  1 worker   2 token       3 '' | the token of the batch that the worker has, to claim the next
--                                  one ahead
--       4 most jobs of this call   5 most rows a batch
--       6 most payload bytes a job   7 most payload bytes a batch
--       8 default timeout (s)    9 most timeout (s)
--
-- A job that has crashed a worker before is claimed alone, and never ahead. A script cannot roll back,
-- so all is read first, then the batch is written, then the jobs, and last the queue is cut: an error
-- on the way leaves an id in two places, never in none.
--
-- Uses clock, ended, bell and batch.

local WORKER, TOKEN, AHEAD_OF = ARGV[1], ARGV[2], ARGV[3]
local MOST_JOBS, MOST_ROWS = tonumber(ARGV[4]), tonumber(ARGV[5])
local MOST_JOB_BYTES, MOST_BYTES = tonumber(ARGV[6]), tonumber(ARGV[7])
local TIMEOUT, MOST_TIMEOUT = tonumber(ARGV[8]), tonumber(ARGV[9])

local IS_AHEAD, BATCH = AHEAD_OF ~= '', K.batch .. WORKER
-- The prefix of the fields to write in the batch's hash: those of the worker's batch, or of its next.
local NEXT = IS_AHEAD and 'next_' or ''
local DUE = IS_AHEAD and 'next_ms' or 'deadline_ms'

-- The field that was written with the status when the job was ended or started.
local TRACE = {finished = 'ended_at', failed = 'ended_at', canceled = 'ended_at',
  stopped = 'ended_at', started = 'started_at'}

local us = now_us()
local started_at = iso(us)
local skipped = 0

-- Sets an unreadable entry aside, for the operator to see.
local function quarantine(queue, id, reason)
  local shown = string.gsub(string.sub(id, 1, 200), '[^%w%p ]', '?')
  redis.pcall('LPUSH', K.quarantine,
    cjson.encode({queue = queue, id = shown, reason = reason, at = started_at}))
  redis.pcall('HINCRBY', K.metrics, 'jobs_quarantined_total', 1)
  skipped = skipped + 1
end

-- Fields of jobs by RQ's clients that ask for what is not done here, each with its flaw. Jobs that
-- submit.lua or forward.lua has queued have none, and are not asked.
local REFUSED = {'webhooks', 'success_callback_name', 'failure_callback_name',
  'stopped_callback_name', 'retries_left', 'repeats_left'}
local FLAWS = {'webhooks', 'callback', 'callback', 'callback', 'retry', 'repeat'}

-- Returns the feature of RQ's that a job asks for and that is refused; nil for none.
local function refused(id)
  local fields = redis.call('HMGET', K.job .. id, unpack(REFUSED))
  for place = 1, #FLAWS do
    local value = fields[place]
    if value and value ~= '' and value ~= '0' and value ~= '[]' then return FLAWS[place] end
  end
end

-- Returns the reason not to run a job; '' for none.
local function flaw_of(id, status, data, deadline, attempts, is_foreign)
  if status ~= 'queued' then return 'status' end
  if #id > 64 then return 'id' end
  local flaw = is_foreign and refused(id)
  if flaw then return flaw end
  if #data > MOST_JOB_BYTES then return 'too_large' end
  if deadline and attempts == 0 and us > (tonumber(deadline) or us) then return 'expired' end
  return ''
end

-- Returns a job's timeout in seconds, within bounds. Most jobs of a batch have the same. RQ's forms are
-- seconds, 30s, 5m and 1h, and -1 for no bound.
local UNITS = {[''] = 1, s = 1, m = 60, h = 3600}
local timeouts = {}
local function timeout_of(text)
  if not text then return TIMEOUT end
  local seconds = timeouts[text]
  if not seconds then
    seconds = TIMEOUT
    local number, unit = string.match(#text <= 9 and text or '', '^(%d+)([smh]?)$')
    if number then
      seconds = math.max(1, math.min(tonumber(number) * UNITS[unit], MOST_TIMEOUT))
    elseif text == '-1' then
      seconds = MOST_TIMEOUT
    end
    timeouts[text] = seconds
  end
  return seconds
end

-- Returns since when a job that others pushed is believed to have waited, in us: no longer than its
-- queue was seen with jobs, and the second that a look may have been late; never from now on.
local waiting = {}
local function queued_us(queue, text)
  local since = waiting[queue] or tonumber(redis.pcall('HGET', K.waiting, queue) or '') or us
  waiting[queue] = since
  local told = us_of(text)
  if not told then return math.min(since, us) end
  return math.max(math.min(since, us) - 1000000, math.min(told, us)), told
end

-- Returns the fields of the job that an entry names; nil where it cannot run.
local function read(queue, id)
  -- An id of RQ's that is too long for us is claimed, to be failed with a word.
  if #id > K.id_length or not string.match(id, '^[%w_-]+$') then
    if #id < 1024 then redis.pcall('EXPIRE', K.job .. id, K.quarantined_ttl) end
    return quarantine(queue, id, 'not a job id')
  end
  local job = redis.pcall('HMGET', K.job .. id, 'status', 'data', 'my_attempts', 'my_crashes',
    'my_deadline', 'timeout', 'result_ttl', 'failure_ttl', 'created_at', 'my_rows', 'my_over',
    'my_queued_at', 'enqueued_at')
  if job.err then return quarantine(queue, id, 'its key is no hash') end
  local status = job[1]
  if not status then return quarantine(queue, id, 'no such job') end
  local trace = TRACE[status]
  if not trace then
    -- It has ended, and RQ's tools or a client enqueued it again: what is left of that run is not this one's.
    if job[11] == '1' then job[3], job[4], job[5], job[12] = false, false, false, false end
    return job
  end
  if redis.call('HEXISTS', K.job .. id, trace) == 0 then
    return quarantine(queue, id, 'its status is ' .. status .. ', and nobody made it so')
  end
  skipped = skipped + 1
end

-- Returns the jobs of one queue that fit into a batch that has `rows` and payload `bytes` already, and
-- may have `most_rows`.
-- Writes nothing but entries that are set aside. The jobs are lists side by side: a table for each job
-- would cost more than reading it. And
--   used          number of entries that they, and those skipped between them, are
--   timeout       their shortest timeout, in seconds
--   rows, bytes   of the batch with them; rows is nil where it takes no more of this queue
local function look(queue, rows, bytes, most_rows)
  local replies, seen, is_first = {}, {}, rows == 0
  local jobs = {ids = {}, attempts = {}, timeouts = {}, dues = {}, is_foreign = {}, is_again = {}, queued = {},
    replies = replies, used = 0, timeout = MOST_TIMEOUT}
  local found = redis.pcall('LRANGE', K.queue .. queue, 0, MOST_JOBS - 1)
  if found.err then return jobs end
  local count, is_full = 0, #found < MOST_JOBS
  for i = 1, #found do
    local id = found[i]
    local job = not seen[id] and read(queue, id)
    if job then
      local data, due, crashes = job[2] or '', job[5], count_of(job[4])
      local alone = crashes > 0
      rows, bytes = rows + math.max(1, count_of(job[10])), bytes + #data
      is_full = is_full or alone
      if alone and IS_AHEAD then break end
      if not is_first and (alone or rows > most_rows or bytes > MOST_BYTES) then
        is_full = true
        break
      end
      local attempts, own_timeout = count_of(job[3]), timeout_of(job[6])
      local flaw = flaw_of(id, job[1], data, due, attempts, not job[10])
      seen[id], is_first = true, false
      -- A job that was scheduled, or waited for another, has waited since it was enqueued.
      local queued_at, text = job[12], job[13] or job[9]
      if not job[10] and (not queued_at or count_of(job[3]) == 0) then
        local believed, told = queued_us(queue, text)
        if believed ~= told then queued_at = iso(believed) end
        jobs.queued[count + 1] = queued_at
      end
      replies[9 * count + 1], replies[9 * count + 2] = id, queued_at or text or ''
      replies[9 * count + 3], replies[9 * count + 4] = attempts + 1, crashes
      replies[9 * count + 5], replies[9 * count + 6] = job[7] or '', job[8] or ''
      replies[9 * count + 7], replies[9 * count + 8] = flaw, flaw == '' and data or ''
      replies[9 * count + 9] = job[10] and 0 or 1
      count = count + 1
      jobs.ids[count], jobs.attempts[count] = id, attempts + 1
      jobs.timeouts[count], jobs.dues[count] = own_timeout, due
      jobs.is_foreign[count], jobs.is_again[count] = not job[10], job[11] == '1'
      if own_timeout < jobs.timeout then jobs.timeout = own_timeout end
      jobs.used = i
      if alone then break end
    else
      jobs.used = i
    end
  end
  if not is_full then jobs.rows, jobs.bytes = rows, bytes end
  return jobs
end

-- Makes jobs this worker's, once their batch has been written, and cuts the queue.
local function take(queue, jobs)
  local ids, wip, suffix = jobs.ids, {}, ':' .. TOKEN
  local wip_from = math.floor(us / 1000000) + K.wip_margin
  for i = 1, #ids do
    local id = ids[i]
    local key = K.job .. id
    redis.call('HSET', key, 'status', 'started', 'started_at', started_at,
      'worker_name', WORKER, 'my_token', TOKEN, 'my_attempts', jobs.attempts[i], 'origin', queue)
    -- RQ's `ttl` bounds how long a job may wait, not how long it may run. Jobs of submit.lua have none.
    if jobs.is_foreign[i] or jobs.is_again[i] then redis.call('PERSIST', key) end
    if jobs.is_again[i] then
      redis.call('HDEL', key, 'my_over', 'my_crashes', 'my_deadline', 'my_error', 'my_run', 'my_queued_at',
        'ended_at')
    end
    if jobs.queued[i] then redis.call('HSET', key, 'my_queued_at', jobs.queued[i]) end
    if jobs.dues[i] then redis.pcall('ZREM', K.deadlines, id) end
    wip[2 * i - 1], wip[2 * i] = wip_from + jobs.timeouts[i], id .. suffix
  end
  if #ids > 0 then redis.pcall('ZADD', K.wip .. queue, unpack(wip)) end
  if jobs.used > 0 then redis.call('LTRIM', K.queue .. queue, jobs.used, -1) end
end

-- Returns when jobs must be over, in ms; of those claimed ahead, their timeout, in ms.
local function due_ms(jobs) return jobs.timeout * 1000 + (IS_AHEAD and 0 or us / 1000) end

-- Returns the rows and bytes of the batch, and the most rows, for more.lua; empty where it takes no more.
local function room_of(jobs, most_rows)
  return jobs.rows and string.format('%.0f %.0f %.0f', jobs.rows, jobs.bytes, most_rows) or ''
end
