-- Returns the jobs of a worker that is gone, or gives its batch back.
--
-- ARGV  1 worker   2 'died' | 'timeout' | 'released'   3 crashes after which a job fails
--       4 failure TTL (s)
--       5, 6 error JSON and RQ exc_string of worker_crashed   7, 8 the same of timeout
-- Reply queue, given back, failed; empty where the worker had no batch
-- Writes what batch.lua's give_back writes
--- use clock
--- use ended
--- use bell
--- use batch

local queue, back, failed = give_back(ARGV[1], ARGV[2], tonumber(ARGV[3]),
  {'worker_crashed', ARGV[5], ARGV[6]}, {'timeout', ARGV[7], ARGV[8]}, tonumber(ARGV[4]))
if not queue then return {} end
return {queue, back, failed}
