-- Adds a version to the catalogue, atomically. A retired one stays retired.
--
-- ARGV  1 model   2 version   3 manifest   4 signature id
-- Writes K.versions..model, K.signatures..model, K.models, K.queues, K.retired, K.route..model
--- use clock
--- use route
--- use service

local model, version = ARGV[1], ARGV[2]
local queue = model .. '@' .. version
local us, state = now_us(), state_of(queue)

local known = redis.call('HGET', K.versions .. model, version)
redis.call('HSET', K.versions .. model, version, ARGV[3])
if state ~= 'retired' and state ~= 'drained' then
  redis.call('HSET', K.signatures .. model, version, ARGV[4])
end
local is_replaced = (not state or state == 'revived') and known and known ~= ARGV[3]
if state == 'deleted' or is_replaced then set_state(queue, 'revived', us) end
forget_old(us)
redis.call('SADD', K.models, model)
redis.call('SADD', K.queues, K.queue .. queue, K.queue .. model)
redis.call('HDEL', K.route .. model, 'source') -- a key set before may be obeyed from now on
