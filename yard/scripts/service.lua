-- Which versions are out of service, and what keeps a version in it.
--
-- K.retired (hash: queue -> state and moment in us) knows only versions that were taken out:
--   retired   takes no new jobs; those that it has are run
--   drained   its last job has ended: what is pushed onto its queue now is not run
--   deleted   is in no catalogue any more; kept for a while, so that workers let go of it and fail
--             what somebody still pushes
--   revived   was deleted and is published anew, with other bytes perhaps: workers that have the
--             old ones let go of them
-- Uses route.lua.

-- Another thing in the key's place is nobody's, and goes.
if redis.call('TYPE', K.retired)['ok'] ~= 'hash' then redis.call('DEL', K.retired) end

-- The state of a version, nil if nobody has taken it out.
local function state_of(queue)
  local kept = redis.pcall('HGET', K.retired, queue)
  return type(kept) == 'string' and string.match(kept, '^%l+') or nil
end

local function set_state(queue, state, us)
  redis.call('HSET', K.retired, queue, state .. ' ' .. string.format('%.0f', us))
end

-- Drops what workers have seen long ago.
local function forget_old(us)
  local entries = redis.call('HGETALL', K.retired)
  for i = 1, #entries, 2 do
    local state, since = string.match(entries[i + 1], '^(%l+) (%d+)$')
    local is_of_use = state == 'retired' or state == 'drained'
    if not is_of_use and us - (tonumber(since) or 0) > K.tombstone_ttl * 1000000 then
      redis.call('HDEL', K.retired, entries[i])
    end
  end
end

-- The names of a model's aliases that stand for the version.
local function aliases_of(model, version)
  local names, raw = {}, read('HGETALL', K.aliases .. model) or {}
  for i = 1, #raw, 2 do
    if raw[i + 1] == version then names[#names + 1] = raw[i] end
  end
  table.sort(names)
  return names
end

-- Why traffic may reach a version: a list of 'active', 'weights', 'route', 'alias NAME'.
local function uses_of(model, version)
  local uses = {}
  if read_active(model).value == version then uses[1] = 'active' end
  if read('HEXISTS', K.weights .. model, version) == 1 then uses[#uses + 1] = 'weights' end
  for routed in string.gmatch(route_of(model).plan, '([^ =]+)=') do
    if routed == version and #uses == 0 then uses[1] = 'route' end -- the last good one goes on
  end
  for _, name in ipairs(aliases_of(model, version)) do uses[#uses + 1] = 'alias ' .. shown(name) end
  return uses
end

-- Takes a version out of all that its model's keys say.
local function unroute(model, version)
  if read_active(model).value == version then redis.call('DEL', K.active .. model) end
  read('HDEL', K.weights .. model, version)
  for _, name in ipairs(aliases_of(model, version)) do redis.call('HDEL', K.aliases .. model, name) end
end

-- Whether a version is in the catalogue; else the code of the error.
local function find(model, version)
  if redis.call('HEXISTS', K.versions .. model, version) == 1 then return true end
  return false, redis.call('SISMEMBER', K.models, model) == 1 and 'unknown_version'
    or 'unknown_model'
end
