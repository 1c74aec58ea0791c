-- The end of a job: written once, in RQ's own result stream and hash, and published to waiters.
--
-- A script has no rollback, so an error half way through a batch would lose its other jobs. Entries
-- that are only for people (registries) are therefore written by pcall: a key of another type costs
-- the entry, not the job.

-- Results that are kept of a job that is run again and again, as RQ keeps them.
local MOST_RESULTS = 10

-- Writes the end of one job. `status` is finished, failed or canceled; `kind` RQ's result type (1
-- success, 2 failure, 3 stopped); `field` and `payload` the result's content; then more hash fields.
-- By my_over a claim knows a job that has ended and was enqueued again: a new run, from its first attempt.
-- The caller has checked that the job has not ended, and files it in the registries.
local function end_job(id, status, at, ttl, kind, worker, field, payload, ...)
  local results, job = K.results .. id, K.job .. id
  local entry = redis.pcall('XADD', results, 'MAXLEN', MOST_RESULTS, '*', 'type', kind, 'worker_name', worker, field, payload)
  if type(entry) == 'table' then -- another type, or a stream that is full: not ours
    redis.call('DEL', results)
    redis.call('XADD', results, '*', 'type', kind, 'worker_name', worker, field, payload)
  end
  redis.call('EXPIRE', results, ttl)
  redis.call('HSET', job, 'status', status, 'ended_at', at, 'my_token', '', 'my_over', 1, ...)
  redis.call('EXPIRE', job, ttl)
end

-- Files ended jobs in one of RQ's registries; `entries` is expiry, id, expiry, id, ... in seconds.
-- Drops expired entries at the same time, so that a registry holds only living jobs.
local function file(registry, entries, now_s)
  if #entries == 0 then return end
  redis.pcall('ZADD', registry, unpack(entries))
  redis.pcall('ZREMRANGEBYSCORE', registry, '-inf', now_s)
end

-- Publishes the ends to waiting clients; `ids` is a list.
local function tell(ids)
  if #ids > 0 then redis.call('PUBLISH', K.ended, table.concat(ids, ' ')) end
end
