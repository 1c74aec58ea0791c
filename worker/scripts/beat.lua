-- Announces in RQ's entries that a worker is alive, and which queues it claims from.
--
-- ARGV  1 worker   2 number of queues, then their names
--       then number of queues that it no longer claims from, then their names
--       then the other fields of its entry, each with its value
-- Writes K.worker..worker, K.all_workers, K.workers..queue, K.swept
--- use clock
--- use presence

local entry = K.worker .. ARGV[1]
local place = 2

local function names()
  local found = {}
  for i = place + 1, place + tonumber(ARGV[place]) do found[#found + 1] = ARGV[i] end
  place = place + #found + 1
  return found
end

-- A write that needs no memory comes first: a full Redis lets the script go on writing after it.
redis.call('EXPIRE', entry, K.worker_ttl)
local queues, left = names(), names()
redis.call('HSET', entry, 'queues', table.concat(queues, ','), unpack(ARGV, place))
redis.call('HSETNX', entry, 'state', 'idle')
extend_presence(now_us() / 1000)
redis.call('EXPIRE', entry, K.worker_ttl)
redis.call('SADD', K.all_workers, entry)
for _, queue in ipairs(queues) do redis.call('SADD', K.workers .. queue, entry) end
for _, queue in ipairs(left) do redis.call('SREM', K.workers .. queue, entry) end
