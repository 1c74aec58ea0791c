-- Ends queued jobs that are in no queue: `DEL rq:queue:iris@v1` by hand leaves their hashes for ever.
--
-- ARGV  1 failure TTL (s)   2 age from which on a job is judged (s)   3 most entries to look through
--       4, 5 error JSON and RQ exc_string of such a job
--       6.. ids
-- Reply number of jobs ended
-- Reads  K.job..id, K.queue..queue, K.signatures..model, K.models, K.retired
-- Writes K.job..id, K.results..id, K.failed..queue
--
-- A client may write the hash first and push the id later, by its own clock. So a job is only marked
-- when it is seen first (my_seen), and ended when it is seen again much later. Jobs of queues that are
-- none of ours are not touched; of a queue too long to be looked through, none is.
--- use clock
--- use ended
--- use bell
--- use batch

local TTL, AGE_S, MOST_ENTRIES = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local us = now_us()
local now_s = math.floor(us / 1000000)
local looked, ended = 0, 0

local function is_ours(queue)
  local model, version = string.match(queue, '^([^@]+)@(.+)$')
  if not model then return redis.pcall('SISMEMBER', K.models, queue) == 1 end
  return redis.pcall('HEXISTS', K.signatures .. model, version) == 1
    or redis.pcall('HEXISTS', K.retired, queue) == 1
end

-- Returns whether the queue is known not to hold the job.
local function is_missing(queue, id)
  local length = redis.pcall('LLEN', K.queue .. queue)
  if type(length) ~= 'number' or looked + length > MOST_ENTRIES then return false end
  looked = looked + length
  return not redis.pcall('LPOS', K.queue .. queue, id)
end

for place = 6, #ARGV do
  local id = ARGV[place]
  local job = redis.pcall('HMGET', K.job .. id, 'status', 'origin', 'my_seen')
  local queue = not job.err and job[1] == 'queued' and job[2]
  if queue and redis.call('TTL', K.job .. id) == -1 and is_ours(queue) then
    local seen_s = tonumber(job[3] or '')
    if not seen_s or seen_s > now_s then
      redis.call('HSET', K.job .. id, 'my_seen', now_s)
    elseif now_s - seen_s >= AGE_S and is_missing(queue, id) then
      fail(id, queue, us, '', {'invalid_job', ARGV[4], ARGV[5]}, TTL)
      ended = ended + 1
    end
  end
end
return ended
