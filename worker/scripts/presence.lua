-- Records when Redis last served a call, to distinguish dead workers from those that could not renew.
--
-- Redis' clock goes on while Redis stands still, is down or cannot be reached, and no worker can renew.
-- After such a gap, live workers get a lease's time to renew, the spare, from the first call that is
-- carried out. K.swept holds when Redis last served (at) and the end of the spare (spare_until), both
-- in ms; until then no batch is taken from its worker.
--
-- Only a call that was served proves that Redis served: each sweep of any pool, each renewal and each
-- beat of any worker records its time. They count in the order in which Redis has carried them out, so
-- calls that waited in its buffers while it was stopped come after the gap, and the first of them finds
-- it. A pool that knows itself to be late proves nothing: Redis may have been gone in the same time, as
-- where a machine sleeps. So a late pool takes leases that have run out if workers or other pools were
-- served meanwhile; if none was, all get the spare.
--
-- A pool that is late again and again cannot prolong the spare without end: a gap within a spare does
-- not start it again, but counts as the shortest gap of it. With gaps of half a lease, the third call
-- after the beginning of a spare, at the latest, finds it over, and takes the leases that have run out.
-- (Live workers have had the time before the gap and the rest of the spare after it.)
--
-- Where the clock itself was set back, all get the spare, too, and leases are set back with it: else
-- those of dead workers would run for as much longer.

-- Most leases that are set back.
local MOST_SET_BACK = 1000

-- Returns the gap between two calls, in ms, above which Redis was away: half a lease, which a worker
-- has left at least when Redis goes, or three sweeps.
local function gap_ms(lease_ms) return math.max(lease_ms / 2, 1500) end

-- Records that Redis goes on serving, for a call that does not know how long leases are; a gap is left
-- for the others to find.
local function extend_presence(now_ms)
  local kept = redis.pcall('HGET', K.swept, 'at')
  local at = type(kept) == 'string' and tonumber(kept)
  if at and math.abs(now_ms - at) <= gap_ms(0) then
    redis.call('HSET', K.swept, 'at', string.format('%.0f', now_ms))
  end
end

-- Records that Redis serves now. Returns true if no spare is on: leases that have run out count.
local function note_presence(now_ms, lease_ms)
  local kept = redis.pcall('HMGET', K.swept, 'at', 'spare_until')
  local at, spare_until = tonumber(kept[1] or ''), tonumber(kept[2] or '')
  local gap = gap_ms(lease_ms)
  local back_ms = at and at - now_ms or 0
  if not at or not spare_until or back_ms > gap then
    spare_until = now_ms + lease_ms
  elseif now_ms - at > gap then
    local left = at < spare_until and math.min(spare_until - at, lease_ms) - gap or lease_ms
    spare_until = now_ms + math.max(0, left)
  end
  -- A write that needs no memory comes first: a full Redis lets the script go on writing after it.
  redis.call(kept.err and 'DEL' or 'PERSIST', K.swept)
  redis.call('HSET', K.swept, 'at', string.format('%.0f', now_ms),
    'spare_until', string.format('%.0f', spare_until))
  if back_ms > gap then
    for _, worker in ipairs(redis.call('ZRANGE', K.leases, 0, MOST_SET_BACK - 1)) do
      redis.call('ZINCRBY', K.leases, string.format('%.0f', -back_ms), worker)
    end
  end
  return now_ms >= spare_until
end
