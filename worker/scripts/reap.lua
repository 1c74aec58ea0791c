-- Gives back the jobs of a worker: one that is gone, or that releases its batch.
--
-- ARGV  1 worker   2 'died' | 'timeout' | 'released'   3 crashes after which a job fails
--       4 failure TTL (s)
--       5, 6 error JSON and RQ exc_string of worker_crashed   7, 8 the same of timeout
--       9 '' | the token of the batch for which the worker was killed
-- Reply queue, number given back, number failed, why; empty where the worker had no batch
-- Writes as batch.lua's give_back
--- use clock
--- use ended
--- use bell
--- use batch

local worker, why, overdue = ARGV[1], ARGV[2], ARGV[9]
-- Between the look that found a batch late and the worker's death, the batch may have ended and the
-- worker claimed another, which is not to blame.
if overdue ~= '' and redis.call('HGET', K.batch .. worker, 'token') ~= overdue then why = 'released' end

local queue, back, failed = give_back(worker, why, {
  crashes = tonumber(ARGV[3]), ttl = tonumber(ARGV[4]),
  crashed = {'worker_crashed', ARGV[5], ARGV[6]}, overran = {'timeout', ARGV[7], ARGV[8]}})
if not queue then return {} end
return {queue, back, failed, why}
