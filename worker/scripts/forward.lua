-- Moves jobs from a model's unversioned queue to the queues of the versions that the keys choose.
--
-- ARGV  1 worker   2 token   3 model, whose name is the unversioned queue's
--       then for each job five: id, wanted version or alias or '', point in [0, 1), rows,
--       deadline (us) or ''
-- Reply for each job '' if it was moved (or is no longer the batch's), else why it cannot be:
--       unknown_model | unknown_version | version_gone | no_active_version | unavailable (its queue is no list)
-- Writes K.job..id, K.wip..queue, K.queue..queue, K.queues, K.deadlines, K.bell..queue, and all that
--        route.lua writes
--- use clock
--- use route
--- use ended
--- use bell
--- use batch

local WORKER, TOKEN, MODEL = ARGV[1], ARGV[2], ARGV[3]

-- Only a write that needs no memory: after it, a full Redis lets the script go on writing.
redis.call('PERSIST', K.batch .. WORKER)

local function forward(id, wanted, point, rows, due)
  local job = redis.pcall('HMGET', K.job .. id, 'status', 'my_token', 'my_attempts', 'my_deadline')
  if job[1] ~= 'started' or job[2] ~= TOKEN then return '' end
  local version, problem = resolve(MODEL, wanted, tonumber(point))
  if not version then return problem end
  local queue = MODEL .. '@' .. version
  local pushed = redis.pcall('RPUSH', K.queue .. queue, id)
  if type(pushed) == 'table' then return 'unavailable' end
  local attempts = count_of(job[3]) - 1
  redis.call('HSET', K.job .. id, 'status', 'queued', 'my_token', '', 'origin', queue,
    'my_rows', rows, 'my_attempts', attempts)
  if due ~= '' then redis.call('HSET', K.job .. id, 'my_deadline', due) end
  redis.pcall('ZREM', K.wip .. MODEL, id .. ':' .. TOKEN)
  redis.pcall('SADD', K.queues, K.queue .. queue)
  if attempts == 0 then watch_deadline(id, due ~= '' and due or job[4]) end
  ring(queue)
  return ''
end

local replies = {}
for i = 4, #ARGV, 5 do
  replies[#replies + 1] = forward(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3],
    ARGV[i + 4])
end
return replies
