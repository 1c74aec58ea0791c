-- Reads a model's route, or changes its keys and reads it, atomically.
--
-- ARGV  1 model
--       2 expected revision, or '' for any
--       3 'keep' | 'set' | 'clear' the active version   4 the version
--       5 'keep' | 'set' | 'clear' the weights          6.. version, weight, ...
-- Reply a list, the first its outcome:
--       ok, revision, mode, plan, active, problems (JSON), changed_at, raw active (nil
--           where there is no string), raw weights (list), raw aliases (list)
--       revision, the present one        the expected revision is another
--       unknown_version, version         it is not published; nothing was changed
--       unknown_model
-- Writes K.active..model, K.weights..model, and what route.lua writes
--- use clock
--- use route

local model, expected = ARGV[1], ARGV[2]
if redis.call('SISMEMBER', K.models, model) == 0 then return {'unknown_model'} end

local before = route_of(model)
if expected ~= '' and tonumber(expected) ~= before.revision then
  return {'revision', before.revision}
end
if ARGV[3] == 'set' and not is_published(model, ARGV[4]) then return {'unknown_version', ARGV[4]} end
for i = 6, #ARGV, 2 do
  if not is_published(model, ARGV[i]) then return {'unknown_version', ARGV[i]} end
end

if ARGV[3] == 'set' then redis.call('SET', K.active .. model, ARGV[4]) end
if ARGV[3] == 'clear' then redis.call('DEL', K.active .. model) end
if ARGV[5] ~= 'keep' then redis.call('DEL', K.weights .. model) end
if ARGV[5] == 'set' then redis.call('HSET', K.weights .. model, unpack(ARGV, 6)) end

-- Value of the active key, cut to what is shown; nil where there is no string.
local function raw_active()
  local value = read('GETRANGE', K.active .. model, 0, 199)
  if value == '' and redis.call('EXISTS', K.active .. model) == 0 then return false end
  return value or false
end

local route = route_of(model)
return {'ok', route.revision, route.mode, route.plan, route.active, route.problems,
  redis.call('HGET', K.route .. model, 'changed_at') or '',
  raw_active(), read_weights(model).value,
  read('HGETALL', K.aliases .. model) or {}}
