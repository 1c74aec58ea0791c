-- The doorbell of a queue: a list of at most one token, on which idle workers block.

-- Wakes one idle worker of the queue; a bell that rings already is enough. It is only a hint, so a
-- key of another type is deleted.
local function ring(queue)
  local bell = K.bell .. queue
  local tokens = redis.pcall('LLEN', bell)
  if tokens ~= 0 and type(tokens) ~= 'table' then return end
  if tokens ~= 0 then redis.call('DEL', bell) end
  redis.call('RPUSH', bell, '1')
  redis.call('EXPIRE', bell, K.bell_ttl)
end
