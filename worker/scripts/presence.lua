-- Whether Redis has been there, for somebody: what tells a worker that is dead from one that could not
-- renew.
--
-- Redis' clock goes on while Redis stands still, or is down, or nobody reaches it, and nobody can
-- renew: after that, workers that live get a lease's time to say so, from the first call that is
-- carried out. K.swept holds when Redis was last seen to serve (at) and until when nothing is taken
-- (spare_until), both in ms.
--
-- What proves that it served is only that it has served: each sweep of any pool, each renewal and each
-- beat of any worker leaves its time. They are looked at in the order in which Redis has carried them
-- out, so that calls that waited in its buffers while it was stopped come after the gap, and the first
-- of them sees it. That a pool knows itself to be late proves nothing: Redis may have been gone in the
-- same time, as where a machine sleeps. So a pool that is late takes what has run out if workers or
-- other pools were served meanwhile; and where nobody was, it gives everybody time.
--
-- That time cannot be drawn out without end, by a pool that is late again and again: a gap within a
-- spare does not begin it anew, but counts as the shortest gap of it. With gaps of half a lease, the
-- third call after the beginning of a spare, at the latest, finds it over, and takes what has run out.
-- (Live workers have had the time before the gap and what is left of the spare after it.)

-- Where the clock itself was set back, everybody gets that time, too, and leases are set back with it:
-- else those of the dead would run for as much longer.

-- Leases that are set back, at most.
local MOST_SET_BACK = 1000

-- Calls further apart than this, in ms, say that Redis was away; half a lease, for a worker has that
-- much left at least when Redis goes, or three sweeps.
local function gap_ms(lease_ms) return math.max(lease_ms / 2, 1500) end

-- Notes that Redis goes on serving, from a call that does not know how long leases are: where there was
-- a gap, it is left for the others to see.
local function extend_presence(now_ms)
  local kept = redis.pcall('HGET', K.swept, 'at')
  local at = type(kept) == 'string' and tonumber(kept)
  if at and math.abs(now_ms - at) <= gap_ms(0) then
    redis.call('HSET', K.swept, 'at', string.format('%.0f', now_ms))
  end
end

-- Notes that Redis serves now. Returns whether leases that have run out mean something.
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
