-- Marks retired versions as drained once nothing waits or runs on their queue.
--
-- ARGV  queues
-- Writes K.retired
--- use clock
--- use route
--- use service

local us = now_us()
for _, queue in ipairs(ARGV) do
  local now_s = string.format('%.0f', us / 1000000)
  local waiting = read('LLEN', K.queue .. queue) or 0
  local running = read('ZCOUNT', K.wip .. queue, now_s, '+inf') or 0
  if state_of(queue) == 'retired' and waiting == 0 and running == 0 then
    set_state(queue, 'drained', us)
  end
end
