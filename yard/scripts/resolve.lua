-- Returns the version that a request would get now, without a job.
--
-- ARGV  1 model   2 wanted version or alias, or ''   3 point in [0, 1)
-- Reply ok, version, signature id | unknown_model | unknown_version | version_gone | no_active_version
-- Writes what route.lua writes
--- use clock
--- use route

local version, found = resolve(ARGV[1], ARGV[2], tonumber(ARGV[3]))
if version then return {'ok', version, found} end
return {found}
