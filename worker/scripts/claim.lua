-- Claims a batch: jobs of the first queue that has any, up to a bound, under a lease, in one step.
--
-- ARGV  1 to 9 see take.lua
--       10 moment (us of the worker's own clock: gives its calls' order)   11 lease (ms)
--       12 '1' where the worker has given up an earlier call, which may come after this one
--       13 most rows of a batch of some queues, for which they are fewer than 5: queue and number,
--          one behind the other with blanks between
--       14.. queues, in the order to look
-- Reply suspended                  `rq suspend` is in force
--       idle, skipped              nothing to claim, or a call that came late; number of entries
--                                  that were no job to run
--       batch, queue, now (us), shortest timeout (s), whether more wait (1 | 0), a list of the jobs, and
--       the version's entry of K.retired, or '': a worker that has loaded other bytes knows by it
--       of the list, for each job nine:
--           id, since when it waits, attempt, crashes, result_ttl, failure_ttl, flaw, data,
--           1 if no script of ours has queued it, else 0
--           flaw is '' or expired | too_large | status | id | webhooks | callback | retry | repeat, and
--           data is empty where there is one
-- Reads  K.suspended, K.retired, and all keys that it writes but K.deadlines and K.metrics
-- Writes K.queue..queue, K.job..id, K.batch..worker, K.leases, K.wip..queue, K.worker..worker,
--        K.deadlines, K.quarantine, K.metrics, K.bell..queue
--
-- If an earlier claim of this worker was not ended (its reply was lost), its jobs are given back first.
-- A call that Redis carries out only after a later one (it was in a buffer while Redis stood still, and
-- its worker has given it up) does nothing: the worker's entry keeps the moment of the last claim that
-- took a batch, or that knew of one given up (my_claim).
--- use clock
--- use ended
--- use bell
--- use batch
--- use take

local MOMENT, LEASE_MS = tonumber(ARGV[10]), tonumber(ARGV[11])
local MAY_COME_LATE, FIRST_QUEUE = ARGV[12] == '1', 14
-- Number of queues after the batch's own that are checked for jobs.
local LOOK_AHEAD = 16

-- Records this call's moment; more fields of the worker's entry may go with it.
local function note_claim(...)
  redis.pcall('HSET', K.worker .. WORKER, 'my_claim', string.format('%.0f', MOMENT), ...)
  redis.call('EXPIRE', K.worker .. WORKER, K.worker_ttl)
end

local most_rows = {}
if ARGV[13] ~= '' then
  for queue, rows in string.gmatch(ARGV[13], '([^ ]+) (%d+)') do most_rows[queue] = tonumber(rows) end
end

if redis.call('EXISTS', K.suspended) == 1 then return {'suspended'} end
if IS_AHEAD then -- this finds a call that comes late, too
  local held = redis.call('HMGET', BATCH, 'token', 'next_token')
  if held[1] ~= AHEAD_OF then return {'idle', 0} end
  if is_token(held[2]) and not select(2, give_back_next(WORKER)) then return {'idle', 0} end
else
  local last = redis.pcall('HGET', K.worker .. WORKER, 'my_claim')
  if type(last) == 'string' and tonumber(last) > MOMENT then return {'idle', 0} end
  -- Begins with what frees memory: a full Redis lets a script that has begun so go on writing.
  redis.pcall('LTRIM', K.quarantine, 0, K.quarantine_length - 1)
  if MAY_COME_LATE then note_claim() end
  if redis.call('EXISTS', BATCH) == 1 then give_back(WORKER, 'released') end
end

-- Writes the batch of these jobs, and its lease: as the worker's batch, or as its next.
local function hold(queue, jobs, most)
  redis.call('ZADD', K.leases, string.format('%.0f', us / 1000 + LEASE_MS), WORKER)
  redis.call('HSET', BATCH, NEXT .. 'token', TOKEN, NEXT .. 'queue', queue,
    NEXT .. 'ids', table.concat(jobs.ids, ' '), NEXT .. 'room', room_of(jobs, most),
    DUE, string.format('%.0f', due_ms(jobs)))
  if not IS_AHEAD then redis.call('HSET', BATCH, 'calls', 0) end
end

-- Returns 1 if more jobs wait in a queue, or in one of those that come next; else 0.
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
  local most = most_rows[queue] or MOST_ROWS
  local jobs = look(queue, 0, 0, most)
  local any = #jobs.ids > 0
  if any then hold(queue, jobs, most) end
  take(queue, jobs)
  if any then
    if not IS_AHEAD then note_claim('state', 'busy', 'current_job', jobs.ids[1]) end
    local state = redis.pcall('HGET', K.retired, queue)
    return {'batch', queue, string.format('%.0f', us), jobs.timeout, is_more(i), jobs.replies,
      type(state) == 'string' and state or ''}
  end
end
return {'idle', skipped}
