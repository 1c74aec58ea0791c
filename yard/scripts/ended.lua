-- How a job ends: once, in RQ's own result stream and hash, and told to those who wait.
--
-- A script has no way back, so that an error half way through a batch would leave its other jobs
-- nowhere. What is only kept for people (registries) is therefore written by pcall: a key that
-- somebody has put another thing into costs the entry, not the job.

-- Writes the end of one job. `status` is finished, failed or canceled; `kind` RQ's result type (1
-- success, 2 failure, 3 stopped); `field` and `payload` the result's content; then more hash fields.
-- The caller has made sure that the job has not ended, and files it in the registries.
local function end_job(id, status, at, ttl, kind, worker, field, payload, ...)
  local results, job = K.results .. id, K.job .. id
  local entry = redis.pcall('XADD', results, '*', 'type', kind, 'worker_name', worker, field, payload)
  if type(entry) == 'table' then -- no stream, or one that takes no more: nothing of ours
    redis.call('DEL', results)
    redis.call('XADD', results, '*', 'type', kind, 'worker_name', worker, field, payload)
  end
  redis.call('EXPIRE', results, ttl)
  redis.call('HSET', job, 'status', status, 'ended_at', at, 'my_token', '', ...)
  redis.call('EXPIRE', job, ttl)
end

-- Files ended jobs in one of RQ's registries; `entries` is expiry, id, expiry, id, ... in seconds.
-- What has expired there goes at the same time, so that a registry is as long as its jobs live.
local function file(registry, entries, now_s)
  if #entries == 0 then return end
  redis.pcall('ZADD', registry, unpack(entries))
  redis.pcall('ZREMRANGEBYSCORE', registry, '-inf', now_s)
end

-- Tells those who wait; `ids` is a list.
local function tell(ids)
  if #ids > 0 then redis.call('PUBLISH', K.ended, table.concat(ids, ' ')) end
end
