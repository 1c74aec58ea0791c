-- Gives back batches whose lease has run out, and fails queued jobs past their deadline. Every pool
-- calls it twice a second. It takes few at a time, and is called again while there are more: no script
-- may hold Redis for more than 2 ms.
--
-- ARGV  1 crashes after which a job fails   2 failure TTL (s)   3 lease (ms)
--       4 most leases   5 most deadlines   6 most entries of queues to look through
--       7, 8 error JSON and RQ exc_string of worker_crashed   9, 10 the same of expired
-- Reply number of jobs expired, 1 if there may be more to do else 0, then a list for each lease:
--       worker, queue, number given back, number failed
-- Writes as batch.lua's give_back; K.swept, K.deadlines, K.job..id, K.queue..queue
--- use clock
--- use ended
--- use bell
--- use batch
--- use presence

local CRASHES, TTL, LEASE_MS = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local MOST_LEASES, MOST_DEADLINES = tonumber(ARGV[4]), tonumber(ARGV[5])
local MOST_ENTRIES = tonumber(ARGV[6])

local us = now_us()
local now_ms = us / 1000
local reply = {0, 0}

local function take_lapsed()
  local gone = redis.call('ZRANGEBYSCORE', K.leases, '-inf', string.format('%.0f', now_ms),
    'LIMIT', 0, MOST_LEASES)
  if #gone == MOST_LEASES then reply[2] = 1 end
  for _, worker in ipairs(gone) do
    local is_read, queue, back, failed = pcall(give_back, worker, 'died',
      {crashes = CRASHES, ttl = TTL, crashed = {'worker_crashed', ARGV[7], ARGV[8]}})
    if not is_read then -- the key under its name is no batch: it must not hide the others
      redis.call('ZADD', K.leases, string.format('%.0f', now_ms + LATER_MS), worker)
      queue, back, failed = '', 0, 0
    end
    reply[#reply + 1] = {worker, queue or '', back or 0, failed or 0}
  end
end

-- Removes a job that has ended from its queue, if it is among the first entries, as those that wait
-- longest are. One that is deep in a long queue stays: a claim passes it over when it comes to it.
-- Returns the number of entries that were looked through, at 10 ns each.
local function cut(queue, id)
  local place = redis.pcall('LPOS', queue, id, 'MAXLEN', MOST_ENTRIES)
  if type(place) ~= 'number' then
    local length = redis.pcall('LLEN', queue)
    return type(length) == 'number' and math.min(length, MOST_ENTRIES) or 0
  end
  redis.call('LREM', queue, 1, id)
  return 2 * place
end

local function end_expired()
  local due = redis.pcall('ZRANGEBYSCORE', K.deadlines, '-inf', string.format('%.0f', us),
    'LIMIT', 0, MOST_DEADLINES)
  local entries = 0
  if #due == MOST_DEADLINES then reply[2] = 1 end
  for _, id in ipairs(due) do
    if entries > MOST_ENTRIES then
      reply[2] = 1
      return
    end
    redis.call('ZREM', K.deadlines, id)
    local job = redis.pcall('HMGET', K.job .. id, 'status', 'origin', 'my_attempts')
    if job[1] == 'queued' and job[2] and count_of(job[3]) == 0 then
      entries = entries + cut(K.queue .. job[2], id)
      fail(id, job[2], us, '', {'expired', ARGV[9], ARGV[10]}, TTL)
      reply[1] = reply[1] + 1
    end
  end
end

if note_presence(now_ms, LEASE_MS) then take_lapsed() end
end_expired()
return reply
