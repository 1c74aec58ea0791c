-- Works out the routes of models whose keys were changed, also where no job asks for them: so the last
-- good route is known, and the history has every change that stood for long enough to be looked at.
--
-- ARGV  models
-- Reply for each model a list: revision, problems (JSON); empty where its keys cannot be read
-- Writes what route.lua writes
--- use clock
--- use route

local replies = {}
for i = 1, #ARGV do
  -- A key of ours that holds another type costs its own model only.
  local is_done, route = pcall(route_of, ARGV[i])
  replies[i] = is_done and {route.revision, route.problems} or {}
end
return replies
