-- The route in force, worked out from the keys as they are at this instant.
--
-- Reads   K.active..model (string), K.weights..model (hash version -> number), K.retired,
--         K.signatures..model (hash version -> signature id: which versions are published)
-- Writes  K.route..model (hash: source, revision, mode, plan, active, problems, changed_at),
--         K.history..model (stream: revision, mode, plan, active), only when the keys have changed
--
-- A value that cannot be obeyed never takes effect: the last good plan stays in force, and
-- `problems` names the fault. A plan is "v1=90 v2=10". The values of the keys from which a plan was
-- made are kept as `source`, so that an unchanged route costs three reads, four where it splits. A key
-- that is absent says nothing, and so clears; one that holds the empty string names no version.

-- An operator's value as harmless text for a message.
local function shown(value)
  local text = string.gsub(string.sub(value, 1, 60), '[^%w%p ]', '?')
  return "'" .. text .. "'" .. (#value > 60 and '...' or '')
end

-- Reply of a read, or nil where the key holds another type.
local function read(...)
  local reply = redis.pcall(...)
  if type(reply) == 'table' and reply.err then return nil end
  return reply
end

local function is_published(model, version)
  return #version <= 63 and redis.call('HEXISTS', K.signatures .. model, version) == 1
end

-- Reason why a version that is not published may not get traffic.
local function absent(model, version)
  local kept = redis.pcall('HGET', K.retired, model .. '@' .. version)
  local is_retired = type(kept) == 'string' and not string.match(kept, '^revived')
  return is_retired and ', which is retired or deleted' or ', which is not published'
end

-- An operator's weight as a number: decimal, finite, not below zero; else nil.
local function weight_of(text)
  if #text > 32 or not string.match(text, '^[%d.eE+-]+$') then return nil end
  local number = tonumber(text)
  if not number or number ~= number or number < 0 or number > 1e300 then return nil end
  return number
end

-- Plan of the weights hash; nil and a problem where it cannot be obeyed.
local function plan_of_weights(model, raw)
  local parts, sum = {}, 0
  for i = 1, #raw, 2 do
    local version, weight = raw[i], weight_of(raw[i + 1])
    if not is_published(model, version) then
      return nil, 'weights name ' .. shown(version) .. absent(model, version)
    end
    if not weight then
      return nil, 'the weight of ' .. shown(version) .. ' is ' .. shown(raw[i + 1])
        .. ', which is no finite number >= 0'
    end
    if weight > 0 then parts[#parts + 1] = version .. '=' .. raw[i + 1] end
    sum = sum + weight
  end
  if sum <= 0 or sum > 1e300 then return nil, 'the weights sum to zero, or beyond all bounds' end
  table.sort(parts)
  return table.concat(parts, ' ')
end

-- True if every version of a plan is still published.
local function is_servable(model, plan)
  if plan == '' then return false end
  for version in string.gmatch(plan, '([^ =]+)=') do
    if not is_published(model, version) then return false end
  end
  return true
end

-- Active version in force; '' where there is none. A bad value leaves the last good one.
local function active_of(model, active, problem, old, problems)
  if problem == '' and active == '' then return '' end
  if problem == '' and is_published(model, active) then return active end
  problems[#problems + 1] = problem ~= '' and problem
    or 'active is ' .. shown(active) .. absent(model, active)
  return is_published(model, old.active) and old.active or ''
end

-- Split in force; nil where there is none. Bad weights leave the last good split.
local function split_of(model, weights, problem, old, problems)
  if problem == '' and #weights == 0 then return nil end
  local split
  if problem == '' then split, problem = plan_of_weights(model, weights) end
  if split then return split end
  problems[#problems + 1] = problem
  return old.mode == 'weights' and is_servable(model, old.plan) and old.plan or nil
end

-- Works the route out again from the values of the keys, and keeps it, but only for a known model.
local function renew_route(model, source, said, old)
  if redis.call('SISMEMBER', K.models, model) == 0 then return old end
  local problems = {}
  local active = active_of(model, said.active.value, said.active.problem, old, problems)
  local split = split_of(model, said.weights.value, said.weights.problem, old, problems)
  local mode, plan = 'none', ''
  if split then
    mode, plan = 'weights', split
  elseif active ~= '' then
    mode, plan = 'active', active .. '=1'
  elseif #problems > 0 and is_servable(model, old.plan) then
    mode, plan, active = old.mode, old.plan, old.active
  end
  local route = {
    revision = old.revision + 1, mode = mode, plan = plan, active = active,
    problems = #problems > 0 and cjson.encode(problems) or '[]',
  }
  redis.call('HSET', K.route .. model, 'source', source, 'revision', route.revision,
    'mode', mode, 'plan', plan, 'active', active, 'problems', route.problems,
    'changed_at', iso(now_us()))
  if (plan ~= old.plan or mode ~= old.mode) and plan ~= '' then
    redis.call('XADD', K.history .. model, 'MAXLEN', '~', K.history_length, '*',
      'revision', route.revision, 'mode', mode, 'plan', plan, 'active', active)
  end
  return route
end

-- Value of the active key, cut to one byte more than a name can have; '' where there is no key.
local function read_active(model)
  local key = K.active .. model
  local value = read('GETRANGE', key, 0, 63)
  if not value then return {value = '', problem = 'the key ' .. key .. ' is no string'} end
  if value == '' and redis.call('EXISTS', key) == 1 then
    return {value = '', problem = 'the key ' .. key .. ' is empty; only DEL clears it'}
  end
  return {value = value, problem = ''}
end

-- Value of the weights key, as a list version, weight, ...
local function read_weights(model)
  local key = K.weights .. model
  local count = read('HLEN', key)
  if not count then return {value = {}, problem = 'the key ' .. key .. ' is no hash'} end
  if count > 256 then return {value = {}, problem = 'weights name more than 256 versions'} end
  if count == 0 then return {value = {}, problem = ''} end
  return {value = redis.call('HGETALL', key), problem = ''}
end

-- Route of a model: {revision, mode, plan, active, problems}.
local function route_of(model)
  local said = {active = read_active(model), weights = read_weights(model)}
  local source = said.active.problem .. said.weights.problem .. #said.active.value .. ':'
    .. said.active.value .. table.concat(said.weights.value, '\0')
  local kept = redis.call('HMGET', K.route .. model,
    'source', 'revision', 'mode', 'plan', 'active', 'problems')
  local old = {
    revision = tonumber(kept[2] or '0') or 0, mode = kept[3] or 'none', plan = kept[4] or '',
    active = kept[5] or '', problems = kept[6] or '[]',
  }
  if kept[1] == source then return old end
  return renew_route(model, source, said, old)
end

-- A plan as lists of versions and weights, and the sum of those.
local function split_plan(plan)
  local versions, weights, sum = {}, {}, 0
  for version, weight in string.gmatch(plan, '([^ =]+)=([^ ]+)') do
    versions[#versions + 1] = version
    weights[#weights + 1] = tonumber(weight)
    sum = sum + weights[#weights]
  end
  return {versions = versions, weights = weights, sum = sum}
end

-- Version that a point in [0, 1) falls on; nil where nothing is routed.
local function choose(split, point)
  local target = point * split.sum
  for i = 1, #split.versions do
    target = target - split.weights[i]
    if target < 0 then return split.versions[i] end
  end
  return split.versions[#split.versions]
end

-- What this call has read already, by model, and by what was asked for. A script is one instant, and
-- the scripts that resolve change no key that a route or a name depends on.
local splits, named = {}, {}

-- Version that the route gives a point; nil where nothing is routed.
local function routed(model, point)
  local split = splits[model] or split_plan(route_of(model).plan)
  splits[model] = split
  return choose(split, point)
end

-- Version that a name or alias means, and its signature id; nil where it means none.
local function meant_by(model, wanted, may_be_alias)
  local asked = (may_be_alias and '?' or '=') .. model .. '@' .. wanted
  local known = named[asked]
  if known then return known[1], known[2] end
  local version, signature = wanted, redis.call('HGET', K.signatures .. model, wanted)
  if not signature and may_be_alias then
    version = read('HGET', K.aliases .. model, wanted)
    signature = version and redis.call('HGET', K.signatures .. model, version)
  end
  if not signature then return version end
  named[asked] = {version, signature}
  return version, signature
end

-- Resolves what a request names: a version, an alias, or '' for the route.
-- Returns the version and its signature id, or nil and the code of the error.
local function resolve(model, wanted, point)
  local version = wanted
  if wanted == '' then
    version = routed(model, point)
    if not version then
      local known = redis.call('SISMEMBER', K.models, model) == 1
      return nil, known and 'no_active_version' or 'unknown_model'
    end
  end
  local signature
  version, signature = meant_by(model, version, wanted ~= '')
  if signature then return version, signature end
  if redis.call('SISMEMBER', K.models, model) == 0 then return nil, 'unknown_model' end
  if wanted == '' then return nil, 'no_active_version' end
  local is_retired = absent(model, version or wanted) ~= ', which is not published'
  return nil, is_retired and 'version_gone' or 'unknown_version'
end
