-- The doorbell of a queue: a list of at most one token, which idle workers block on.

-- Wakes one idle worker of the queue; a bell that is ringing already is enough. It is no more than a
-- hint, so another thing in its place goes.
local function ring(queue)
  local bell = K.bell .. queue
  local tokens = redis.pcall('LLEN', bell)
  if tokens ~= 0 and type(tokens) ~= 'table' then return end
  if tokens ~= 0 then redis.call('DEL', bell) end
  redis.call('RPUSH', bell, '1')
  redis.call('EXPIRE', bell, K.bell_ttl)
end
