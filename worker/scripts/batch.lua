-- A worker's batches: which jobs it holds, under which token, until when.
--
-- K.batch..worker is written by claim, and goes when the batch ends or is given back; K.leases (sorted
-- set: worker -> expiry in ms) says how long it is the worker's own. A job is the batch's as long as
-- its status is started and its my_token the batch's. Fields of the hash:
--
--   token, queue, ids   the batch; ids of jobs that have ended stay in it
--   deadline_ms         when it must be over: its shortest timeout from when it began
--   calls               number of its finishing calls that have been carried out
--   room                rows and payload bytes that it has so far, and the most rows; empty where more.lua
--                       adds nothing
--   released            set if it was given back at no cost, and could not be pushed back then
--   next_token, next_queue, next_ids, next_ms   the batch that a worker claims ahead under load, and
--                       its shortest timeout; under the same lease. It becomes the batch when the one
--                       before it ends. Then next_token is empty, and the others have no meaning.
--                       room has one only for the calls that are sent with the batch's claim.
--   next_room           as room
--
-- Uses clock, ended and bell.

-- Time until the next try for a batch that cannot be given back, in ms.
local LATER_MS = 5000

-- Returns the small whole number that a hash field holds; 0 for any other text. Most jobs of a batch
-- have the same, so each text is parsed once.
local counts = {}
local function count_of(text)
  if not text then return 0 end
  local count = counts[text]
  if not count then
    count = #text <= 6 and string.match(text, '^%d+$') and tonumber(text) or 0
    counts[text] = count
  end
  return count
end

local function metric(name, model, version, rest, by)
  redis.pcall('HINCRBY', K.metrics,
    name .. '|model=' .. model .. '|model_version=' .. version .. rest, by)
end

-- Lets a job that has not been started expire at its deadline again; `due` is its field, in us.
local function watch_deadline(id, due)
  due = tonumber(due or '')
  if due and due > 0 and due < 1e17 then
    redis.pcall('ZADD', K.deadlines, string.format('%.0f', due), id)
  end
end

-- Returns a time to live that a job carries, within bounds; else the default. RQ's -1, for ever, is
-- the longest, and its 0 the shortest: those who wait for the job must hear of its end.
local function ttl_of(text, default)
  if text == '-1' then return K.longest_ttl end
  if not text or not string.match(text, '^%d+$') or #text > 18 then return default end
  return math.max(K.shortest_ttl, math.min(tonumber(text), K.longest_ttl))
end

-- Fails one job that its worker could not end. `failure` is {code, error JSON, RQ's exc_string}.
local function fail(id, queue, us, worker, failure, default_ttl)
  local ttl = ttl_of(redis.call('HGET', K.job .. id, 'failure_ttl'), default_ttl)
  local now_s = math.floor(us / 1000000)
  end_job(id, 'failed', iso(us), ttl, 2, worker, 'exc_string', failure[3], 'my_error', failure[2])
  file(K.failed .. queue, {now_s + ttl, id}, now_s)
  tell({id})
  local model, version = string.match(queue, '^([^@]+)@(.+)$')
  if model then
    metric('model_prediction_requests_total', model, version, '|status=failed', 1)
    metric('model_prediction_errors_total', model, version, '|error_type=' .. failure[1], 1)
  end
end

-- Gives the jobs of one batch back to the head of its queue, in their order; see give_back. A job is
-- known to have overrun only where no other was in its batch: a batch mate that has ended since, or
-- was canceled, may be the one that hung.
local function return_jobs(worker, token, queue, listed, us, why, terms)
  local ids, held, back, failed = {}, {}, 0, 0
  for id in string.gmatch(listed, '[^ ]+') do ids[#ids + 1] = id end
  for _, id in ipairs(ids) do
    redis.pcall('ZREM', K.wip .. queue, id .. ':' .. token)
    local job = redis.pcall('HMGET', K.job .. id,
      'status', 'my_token', 'my_attempts', 'my_crashes', 'my_deadline')
    if job[1] == 'started' and job[2] == token then
      held[#held + 1] = {id, count_of(job[3]), count_of(job[4]), job[5]}
    end
  end
  for i = #held, 1, -1 do
    local id, attempts, crashes, due = unpack(held[i], 1, 4)
    local failure
    if why == 'released' then
      attempts = attempts - 1
    elseif why == 'timeout' and #ids == 1 then
      failure = terms.overran
    else
      crashes = crashes + 1
      if crashes >= terms.crashes then failure = terms.crashed end
    end
    redis.call('HSET', K.job .. id, 'status', 'queued', 'my_token', '',
      'my_attempts', attempts, 'my_crashes', crashes)
    if failure then
      fail(id, queue, us, worker, failure, terms.ttl)
      failed = failed + 1
    else
      if attempts == 0 then watch_deadline(id, due) end
      redis.call('LPUSH', K.queue .. queue, id)
      back = back + 1
    end
  end
  if back > 0 then ring(queue) end
  if why ~= 'released' and #held > 0 then
    local model, version = string.match(queue, '^([^@]+)@(.+)$')
    if model then metric('jobs_reaped_total', model, version, '', #held) end
  end
  return back, failed
end

-- Returns whether jobs can be pushed back: the queue's key may have been overwritten.
local function is_queue(queue)
  local place = redis.call('TYPE', K.queue .. queue)['ok']
  return place == 'list' or place == 'none'
end

-- Returns whether a field of the batch that was read as a token holds one.
local function is_token(field) return field and field ~= '' end

-- Gives back the batch that a worker claimed ahead and has not begun, at no cost to its jobs.
-- Returns the number of jobs, and false where they could not be pushed back.
local function give_back_next(worker)
  local batch = redis.call('HMGET', K.batch .. worker, 'next_token', 'next_queue', 'next_ids')
  if not is_token(batch[1]) then return 0, true end
  if not is_queue(batch[2]) then return 0, false end
  local back = return_jobs(worker, batch[1], batch[2], batch[3], now_us(), 'released')
  redis.call('HDEL', K.batch .. worker, 'next_token', 'next_queue', 'next_ids', 'next_ms',
    'next_room')
  return back, true
end

-- Gives all jobs of a worker back to the heads of their queues, in their order. Where a queue's key
-- was overwritten, they stay in the batch, to be given back later: under the batch's token, so that
-- the worker, if it lives, can claim another one.
--
-- why         'released' costs them nothing; 'died' and 'timeout' count as a crash, after which a
--             job runs alone; a batch that was claimed ahead had not begun, and is released
-- terms       crashes: number after which a job fails instead; crashed, overran: the failures to
--             write then, as `fail` takes them; ttl: their time to live, in s. 'released' needs none
-- Returns the queue, the number given back, the number failed; nil where there was no batch.
local function give_back(worker, why, terms)
  local batch = redis.call('HMGET', K.batch .. worker, 'token', 'queue', 'ids', 'next_token', 'released')
  redis.call('ZREM', K.leases, worker)
  local token, queue = batch[1], batch[2]
  if not token then return nil end
  local us = now_us()
  local ahead, could = give_back_next(worker)
  if not could or not is_queue(queue) then
    if why == 'released' then redis.call('HSET', K.batch .. worker, 'released', 1) end
    redis.call('RENAME', K.batch .. worker, K.batch .. token)
    redis.call('ZADD', K.leases, string.format('%.0f', us / 1000 + LATER_MS), token)
    return queue, ahead, 0
  end
  -- A batch ahead may be the one that hung: its worker begins it before Redis has confirmed the end of
  -- this one. Suspects have none ahead, so the next run of each shows which it was.
  if why == 'timeout' and is_token(batch[4]) then why = 'died' end
  if batch[5] then why = 'released' end
  local back, failed = return_jobs(worker, token, queue, batch[3], us, why, terms)
  redis.call('DEL', K.batch .. worker)
  return queue, ahead + back, failed
end
