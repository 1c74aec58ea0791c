-- The doorbell of a queue: a list of at most one token, which idle workers block on.

-- Wakes one idle worker of the queue; a bell that is ringing already is enough.
local function ring(queue)
  if redis.call('LLEN', K.bell .. queue) == 0 then
    redis.call('RPUSH', K.bell .. queue, '1')
    redis.call('EXPIRE', K.bell .. queue, K.bell_ttl)
  end
end
