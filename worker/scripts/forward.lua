-- Moves jobs from a model's front door to the queues of the versions that the keys choose now.
--
-- ARGV  1 worker   2 token   3 model, whose name is the front door's queue
--       then for each job four: id, wanted version or alias or '', point in [0, 1), rows
-- Reply for each job '' if it was moved (or is no longer the batch's), else why it cannot be:
--       unknown_model | unknown_version | no_active_version
-- Writes K.job..id, K.wip..queue, K.queue..queue, K.queues, K.bell..queue, what route.lua writes
--- use clock
--- use route
--- use bell

local TOKEN, MODEL = ARGV[2], ARGV[3]

local function forward(id, wanted, point, rows)
  local job = redis.call('HMGET', K.job .. id, 'status', 'my_token')
  if job[1] ~= 'started' or job[2] ~= TOKEN then return '' end
  local version, problem = resolve(MODEL, wanted, tonumber(point))
  if not version then return problem end
  local queue = MODEL .. '@' .. version
  redis.call('ZREM', K.wip .. MODEL, id .. ':' .. TOKEN)
  redis.call('HINCRBY', K.job .. id, 'my_attempts', -1)
  redis.call('HSET', K.job .. id, 'status', 'queued', 'my_token', '', 'origin', queue,
    'my_rows', rows)
  redis.call('SADD', K.queues, K.queue .. queue)
  redis.call('RPUSH', K.queue .. queue, id)
  ring(queue)
  return ''
end

local replies = {}
for i = 4, #ARGV, 4 do
  replies[#replies + 1] = forward(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3])
end
return replies
