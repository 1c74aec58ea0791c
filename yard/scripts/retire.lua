-- Takes a version out of service, or puts it back: from this instant on it gets no jobs, or gets
-- them again. Queued jobs stay where they are.
--
-- ARGV  1 model   2 version   3 'retire' | 'force' | 'restore'
--       4 its signature id, to restore it
-- 'force' takes it out of the route first.
-- Reply ok | same (it was so before) | unknown_model | unknown_version | in_use, reason, ...
-- Writes K.signatures..model, K.retired, what route.lua writes; with 'force' K.active..model,
--        K.weights..model, K.aliases..model
--- use clock
--- use route
--- use service

local model, version, how = ARGV[1], ARGV[2], ARGV[3]
local queue, us = model .. '@' .. version, now_us()

local is_known, problem = find(model, version)
if not is_known then return {problem} end
local state = state_of(queue)
local is_out = state == 'retired' or state == 'drained'
forget_old(us)

if how == 'restore' then
  redis.call('HSET', K.signatures .. model, version, ARGV[4])
  if is_out then redis.call('HDEL', K.retired, queue) end
  redis.call('HDEL', K.route .. model, 'source') -- a key set before may be obeyed from now on
  return {is_out and 'ok' or 'same'}
end

local uses = how == 'force' and {} or uses_of(model, version)
if #uses > 0 then return {'in_use', unpack(uses)} end
redis.call('HDEL', K.signatures .. model, version)
if how == 'force' then
  unroute(model, version)
  redis.call('HDEL', K.route .. model, 'source') -- also where only the last good route names it
  route_of(model)
end
if not is_out then set_state(queue, 'retired', us) end
return {is_out and 'same' or 'ok'}
