-- Accepts jobs: chooses the version of each by the keys as they are now, and queues it.
--
-- ARGV  1 queue bound (jobs)   2 timeout (s)       3 result TTL (s)   4 failure TTL (s)
--       5 idempotency TTL (s)
--       then for each job ten:
--       id, model, wanted version or alias or '', point in [0, 1), signature id that the rows were
--       checked against, rows, deadline (ms) or '', idempotency digest or '', body digest, data
-- Reply for each job a list, the first its outcome:
--       ok, queue, id                    queued (or was queued before by the same call, repeated)
--       same, queue, id                  the idempotency key named this job before
--       mismatch, '', id                 the idempotency key named a job with another body
--       signature, version               the rows must be checked against this version's signature
--       queue_full, queue, depth
--       unknown_model | unknown_version | version_gone | no_active_version
--       unavailable, why                 a key that this job needs holds another type; others go on
-- Writes K.job..id (hash), K.queue..queue, K.bell..queue, K.deadlines, K.idempotency..model:digest,
--        K.queues, and what route.lua writes
--
-- A script has no rollback, and a repeated call takes a job that has its hash for accepted. So all
-- keys that may hold another type are read first, and the id is on its queue before the hash is
-- there: an entry without a hash is skipped, and the repeated call makes both. A full Redis refuses
-- the first write of a script or none.
--- use clock
--- use route
--- use bell

local BOUND, TIMEOUT, RESULT_TTL, FAILURE_TTL = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local IDEMPOTENCY_TTL = ARGV[5]

local us = now_us()
local created_at = iso(us)
local depths = {}

-- Id and body digest of an idempotency key's job; nil if there is none.
local function known_by(key)
  local kept = redis.pcall('GET', key) -- any other value is replaced
  local id, body = string.match(type(kept) == 'string' and kept or '', '^([^ ]+) ([^ ]+)$')
  if id and redis.call('EXISTS', K.job .. id) == 1 then return id, body end
end

local function push(id, queue, rows, deadline, data)
  local key = K.job .. id
  redis.call('RPUSH', K.queue .. queue, id)
  depths[queue] = depths[queue] + 1
  redis.call('HSET', key, 'status', 'queued', 'origin', queue, 'created_at', created_at,
    'enqueued_at', created_at, 'timeout', TIMEOUT, 'result_ttl', RESULT_TTL,
    'failure_ttl', FAILURE_TTL, 'my_rows', rows, 'data', data)
  if deadline ~= '' then
    local due = us + tonumber(deadline) * 1000
    redis.call('HSET', key, 'my_deadline', string.format('%.0f', due))
    -- Only so that it expires without a worker: a claim checks the deadline, too.
    redis.pcall('ZADD', K.deadlines, string.format('%.0f', due), id)
  end
end

local function submit(id, model, wanted, point, signature, rows, deadline, idem, body, data)
  local queue_of_id = redis.call('HGET', K.job .. id, 'origin')
  if queue_of_id then return {'ok', queue_of_id, id} end
  local idem_key = K.idempotency .. model .. ':' .. idem
  if idem ~= '' then
    local known, known_body = known_by(idem_key)
    if known and known_body ~= body then return {'mismatch', '', known} end
    if known then return {'same', redis.call('HGET', K.job .. known, 'origin') or '', known} end
  end
  local version, found = resolve(model, wanted, tonumber(point))
  if not version then return {found} end
  if found ~= signature then return {'signature', version} end
  local queue = model .. '@' .. version
  if not depths[queue] then
    local depth = redis.pcall('LLEN', K.queue .. queue)
    if type(depth) == 'table' then return {'unavailable', K.queue .. queue .. ' is no list'} end
    if depth == 0 then redis.pcall('SADD', K.queues, K.queue .. queue) end -- for RQ's tools
    depths[queue] = depth
  end
  if depths[queue] >= BOUND then return {'queue_full', queue, depths[queue]} end
  push(id, queue, rows, deadline, data)
  if idem ~= '' then redis.call('SET', idem_key, id .. ' ' .. body, 'EX', IDEMPOTENCY_TTL) end
  return {'ok', queue, id}
end

-- Outcome of a job; a key of another type costs the job that needs it, and no other.
local function try(...)
  local is_done, reply = pcall(submit, ...)
  if is_done then return reply end
  -- Other errors (full, a replica, ...) are raised again, by code: from Redis 7 on as a table.
  local said = type(reply) == 'table' and reply.err or tostring(reply)
  if not string.find(said, 'WRONGTYPE', 1, true) then
    error(string.match(said, '^%u+ ') and {err = said} or said, 0)
  end
  return {'unavailable', 'a key of the model or of the job holds another type than ours'}
end

local replies, pushed = {}, {}
for i = 6, #ARGV, 10 do
  local reply = try(ARGV[i], ARGV[i + 1], ARGV[i + 2], ARGV[i + 3], ARGV[i + 4], ARGV[i + 5],
    ARGV[i + 6], ARGV[i + 7], ARGV[i + 8], ARGV[i + 9])
  replies[#replies + 1] = reply
  if reply[1] == 'ok' then pushed[reply[2]] = true end
end
for queue in pairs(pushed) do ring(queue) end
return replies
