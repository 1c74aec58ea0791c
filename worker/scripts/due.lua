-- Does for waiting jobs what RQ's scheduler and workers do: queues those whose time has come, and those
-- whose dependencies have finished, and gives those that RQ's `Job.cancel()` has canceled an end. Every
-- pool calls it once a second; where nothing of that kind waits it only reads.
--
-- ARGV  1 most entries of a queue and kind   2 TTL of a canceled job (s)   3 failure TTL (s)
--       4, 5 error JSON and RQ exc_string of a job whose dependency is gone
--       6.. queues
-- Reply number of jobs queued, number ended
-- Reads  K.scheduled..queue, K.deferred..queue, K.canceled..queue, K.scheduler_lock..queue, K.job..id
-- Writes those but the lock, K.queue..queue, K.queues, K.bell..queue, K.results..id, K.failed..queue,
--        K.groups, K.group..name
--
-- One call is one instant in Redis, so pools need no lock among themselves. A queue whose lock an RQ
-- scheduler holds (`rq worker --with-scheduler`) has its times looked after by that one. Entries that
-- are no job are removed, and no field is trusted to be more than text.
--- use clock
--- use ended
--- use bell
--- use batch

local MOST, CANCELED_TTL, FAILURE_TTL = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local GONE = {'invalid_job', ARGV[4], ARGV[5]}
local us = now_us()
local now_s = math.floor(us / 1000000)
local queued, ended = 0, 0

-- Returns the members of a registry with scores from `least` to `most`; none for a key of another type.
local function members(registry, least, most)
  local found = redis.pcall('ZRANGEBYSCORE', registry, least, most, 'LIMIT', 0, MOST)
  return found.err and {} or found
end

-- Takes a job out of the sets in which RQ keeps who depends on whom: they have no time to live.
local function forget_dependencies(id, text)
  redis.pcall('DEL', K.job .. ':' .. id .. ':dependencies') -- RQ's key has two colons
  local is_read, ids = pcall(cjson.decode, text or '')
  if not is_read or type(ids) ~= 'table' then return end
  for place = 1, math.min(#ids, MOST) do
    if type(ids[place]) == 'string' then
      redis.pcall('SREM', K.job .. ids[place] .. ':dependents', id)
    end
  end
end

-- Queues a job that waited in `registry`. RQ's `ttl` counts from now on.
local function enqueue(registry, queue, id, at_front, ttl)
  if type(redis.pcall('LLEN', K.queue .. queue)) ~= 'number' then return end -- no list: it waits on
  redis.call(at_front == '1' and 'LPUSH' or 'RPUSH', K.queue .. queue, id)
  redis.call('HSET', K.job .. id, 'status', 'queued', 'origin', queue, 'enqueued_at', iso(us))
  if ttl and string.match(ttl, '^%d+$') then redis.call('EXPIRE', K.job .. id, string.sub(ttl, 1, 9)) end
  redis.call('ZREM', registry, id)
  redis.pcall('SADD', K.queues, K.queue .. queue)
  ring(queue)
  queued = queued + 1
end

local function enqueue_scheduled(queue)
  local registry = K.scheduled .. queue
  for _, id in ipairs(members(registry, '-inf', now_s)) do
    local job = redis.pcall('HMGET', K.job .. id, 'status', 'enqueue_at_front', 'ttl')
    if job.err or job[1] ~= 'scheduled' then -- gone, canceled, or no job
      redis.call('ZREM', registry, id)
    else
      enqueue(registry, queue, id, job[2], job[3])
    end
  end
end

-- Returns 'met', 'open' or 'gone': the state of a job's dependencies.
local function dependencies_of(text, may_fail)
  local is_read, ids = pcall(cjson.decode, text or '')
  if not is_read or type(ids) ~= 'table' then return 'gone' end
  local state = 'met'
  for place = 1, math.min(#ids, MOST) do
    local status = type(ids[place]) == 'string' and redis.pcall('HGET', K.job .. ids[place], 'status')
    if type(status) ~= 'string' then return 'gone' end
    if status ~= 'finished' and not (may_fail == '1' and status == 'failed') then state = 'open' end
  end
  return state
end

local function enqueue_deferred(queue)
  local registry = K.deferred .. queue
  local found = members(registry, '-inf', '+inf')
  for _, id in ipairs(found) do
    local job = redis.pcall('HMGET', K.job .. id, 'status', 'dependency_ids',
      'allow_dependency_failures', 'enqueue_at_front', 'ttl')
    local state = 'none'
    if not job.err and job[1] == 'deferred' then state = dependencies_of(job[2], job[3]) end
    if state == 'met' then
      enqueue(registry, queue, id, job[4], job[5])
    elseif state == 'gone' then
      fail(id, queue, us, '', GONE, FAILURE_TTL)
      ended = ended + 1
    end
    if state == 'none' or state == 'gone' then redis.call('ZREM', registry, id) end
    if state ~= 'open' then
      forget_dependencies(id, not job.err and job[2])
    elseif #found == MOST then -- so that the others get their turn
      redis.call('ZADD', registry, 'XX', string.format('%.6f', us / 1000000), id)
    end
  end
end

-- RQ files what it has canceled as if it had expired by now, and leaves the job itself for ever.
local function end_canceled(queue)
  local registry = K.canceled .. queue
  for _, id in ipairs(members(registry, '-inf', now_s)) do
    local job = redis.pcall('HMGET', K.job .. id, 'status', 'dependency_ids')
    if not job.err and job[1] == 'canceled' then
      if redis.call('TTL', K.job .. id) == -1 then
        end_job(id, 'canceled', iso(us), CANCELED_TTL, 3, '', 'reason', 'canceled')
        forget_dependencies(id, job[2])
        tell({id})
        ended = ended + 1
      end
      redis.call('ZADD', registry, now_s + CANCELED_TTL, id)
    else
      redis.call('ZREM', registry, id)
    end
  end
end

-- Removes jobs that are gone from RQ's groups, as the maintenance of RQ's workers does: a few of one
-- group a call.
local function tidy_groups()
  local name = redis.pcall('SRANDMEMBER', K.groups)
  if type(name) ~= 'string' then return end
  local ids = redis.pcall('SRANDMEMBER', K.group .. name, MOST)
  if ids.err then return end
  for _, id in ipairs(ids) do
    if redis.call('EXISTS', K.job .. id) == 0 then redis.call('SREM', K.group .. name, id) end
  end
  if redis.call('EXISTS', K.group .. name) == 0 then redis.call('SREM', K.groups, name) end
end

tidy_groups()
for place = 6, #ARGV do
  local queue = ARGV[place]
  if redis.pcall('EXISTS', K.scheduler_lock .. queue) == 0 then enqueue_scheduled(queue) end
  enqueue_deferred(queue)
  end_canceled(queue)
end
return {queued, ended}
