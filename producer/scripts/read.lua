-- Reads several jobs, each at one instant.
--
-- ARGV  ids
-- Reply for each id two lists: the fields below, and the newest result's names and values, one after
--       the other; both empty where a key holds another type
-- Reads K.job..id, K.results..id; writes nothing

local replies = {}
for i = 1, #ARGV do
  local job = redis.pcall('HMGET', K.job .. ARGV[i], 'status', 'origin', 'created_at', 'started_at',
    'ended_at', 'my_attempts', 'my_run', 'my_error', 'my_queued_at')
  local results = redis.pcall('XREVRANGE', K.results .. ARGV[i], '+', '-', 'COUNT', 1)
  replies[i] = {
    job.err and {} or job,
    not results.err and results[1] and results[1][2] or {},
  }
end
return replies
