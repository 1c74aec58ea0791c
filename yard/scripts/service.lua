-- Versions out of service, and the reasons that keep a version in it.
--
-- K.retired (hash: queue -> state and time in us) has only versions that were taken out:
--   retired   gets no new jobs; those that it has are run
--   drained   its last job has ended: jobs pushed onto its queue now are not run
--   deleted   is no longer in the catalogue; kept for a while, so that workers unload it and fail
--             later pushes
--   revived   was deleted and is published again, or was published over, perhaps with other bytes:
--             workers that have the old ones unload them
-- Uses route.lua.

-- A key of another type is deleted.
if redis.call('TYPE', K.retired)['ok'] ~= 'hash' then redis.call('DEL', K.retired) end

-- State of a version, nil if it was not taken out.
local function state_of(queue)
  local kept = redis.pcall('HGET', K.retired, queue)
  return type(kept) == 'string' and string.match(kept, '^%l+') or nil
end

local function set_state(queue, state, us)
  redis.call('HSET', K.retired, queue, state .. ' ' .. string.format('%.0f', us))
end

-- Drops entries that workers have seen long ago.
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

-- Names of a model's aliases that point to the version.
local function aliases_of(model, version)
  local names, raw = {}, read('HGETALL', K.aliases .. model) or {}
  for i = 1, #raw, 2 do
    if raw[i + 1] == version then names[#names + 1] = raw[i] end
  end
  table.sort(names)
  return names
end

-- Reasons why traffic may reach a version: a list of 'active', 'weights', 'route', 'alias NAME'.
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

-- Removes a version from all keys that route its model.
local function unroute(model, version)
  if read_active(model).value == version then redis.call('DEL', K.active .. model) end
  read('HDEL', K.weights .. model, version)
  for _, name in ipairs(aliases_of(model, version)) do redis.call('HDEL', K.aliases .. model, name) end
end

-- True if a version is in the catalogue; else false and the code of the error.
local function find(model, version)
  if redis.call('HEXISTS', K.versions .. model, version) == 1 then return true end
  return false, redis.call('SISMEMBER', K.models, model) == 1 and 'unknown_version'
    or 'unknown_model'
end
