-- Records that a worker died with a batch of a queue, and holds the queue back in a crash loop.
--
-- Deaths are in a row if no batch of the version was predicted between them. The first of a row are
-- free: a single job that kills workers is tried alone, fails, and delays its version little.
--
-- ARGV  1 queue   2 field of K.metrics that counts the version's predicts   3 exit status
--       4 the first death of a row that is not free   5 the hold after it (ms), doubled for each
--       further   6 longest hold (ms)
-- Reply deaths in a row, hold (ms)
-- Writes K.crashes (hash: queue -> JSON)
--- use clock

local QUEUE, LOOP, FIRST, LAST = ARGV[1], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- A write without effect or memory: a full Redis lets the script go on writing after it.
redis.call('PERSIST', K.crashes)

local now_ms = math.floor(now_us() / 1000)
local counted = redis.pcall('HGET', K.metrics, ARGV[2])
local predicts = type(counted) == 'string' and counted or '0'
local raw = redis.call('HGET', K.crashes, QUEUE)
local is_json, last = pcall(cjson.decode, raw or '')
local row = 1
if is_json and type(last) == 'table' and last.predicts == predicts
    and now_ms - (tonumber(last.at_ms) or 0) < K.crashes_ttl * 1000 then
  row = (tonumber(last.row) or 0) + 1
end
local hold_ms = row >= LOOP and math.min(LAST, FIRST * 2 ^ math.min(30, row - LOOP)) or 0
redis.call('HSET', K.crashes, QUEUE, cjson.encode({row = row, at_ms = now_ms,
  until_ms = now_ms + hold_ms, predicts = predicts, status = tonumber(ARGV[3])}))
redis.call('EXPIRE', K.crashes, K.crashes_ttl)
return {row, hold_ms}
