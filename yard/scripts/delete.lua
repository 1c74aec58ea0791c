-- Deletes a version from the catalogue, unless something still needs it.
--
-- ARGV  1 model   2 version   3 'force' or ''
-- 'force' takes it out of the route first; jobs that wait for it will fail with version_gone.
-- Reply ok | unknown_model | unknown_version | in_use, reason, ...: as retire.lua's, and
--       'queued N', 'running N', and of a model's last version 'unversioned N'
-- Writes K.versions..model, K.signatures..model, K.retired, K.queues, and of a model's last version
--        all of the model's keys; with 'force' what retire.lua writes
--- use clock
--- use route
--- use service

local model, version, is_forced = ARGV[1], ARGV[2], ARGV[3] == 'force'
local queue, us = model .. '@' .. version, now_us()

local is_known, problem = find(model, version)
if not is_known then return {problem} end
local is_last = redis.call('HLEN', K.versions .. model) == 1

local function add(uses, what, count)
  if count and count > 0 then uses[#uses + 1] = what .. ' ' .. count end
end

if not is_forced then
  local uses = uses_of(model, version)
  add(uses, 'queued', read('LLEN', K.queue .. queue))
  add(uses, 'running', read('ZCOUNT', K.wip .. queue, string.format('%.0f', us / 1000000), '+inf'))
  if is_last then add(uses, 'unversioned', read('LLEN', K.queue .. model)) end
  if #uses > 0 then return {'in_use', unpack(uses)} end
end

redis.call('HDEL', K.versions .. model, version)
redis.call('HDEL', K.signatures .. model, version)
forget_old(us)
set_state(queue, 'deleted', us)
if redis.call('EXISTS', K.queue .. queue) == 0 then redis.call('SREM', K.queues, K.queue .. queue) end
if is_last then
  redis.call('SREM', K.models, model)
  redis.call('DEL', K.versions .. model, K.signatures .. model, K.route .. model,
    K.history .. model, K.active .. model, K.weights .. model, K.aliases .. model)
  if redis.call('EXISTS', K.queue .. model) == 0 then
    redis.call('SREM', K.queues, K.queue .. model)
  end
elseif is_forced then
  unroute(model, version)
  redis.call('HDEL', K.route .. model, 'source') -- also where only the last good route names it
  route_of(model)
end
return {'ok'}
