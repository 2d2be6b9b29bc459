-- What both looks begin with. What cannot be read counts as nothing, and its key as unreadable: a key of the wrong type must not
-- hide everything else.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local wrong, unreadable = {}, 0

local function ask(command, key, ...)
  local found = redis.pcall(command, key, ...)
  if type(found) ~= 'table' or not found.err then return found end
  if not wrong[key] then wrong[key], unreadable = true, unreadable + 1 end
end
local function whole(text) return tonumber(text or 0) or 0 end
local function number(...) return whole(ask(...)) end
local function list(...) return ask(...) or {} end
local function map(key)
  local flat, found = list('HGETALL', key), {}
  for i = 1, #flat, 2 do found[flat[i]] = whole(flat[i + 1]) end
  return found
end
local function age_s(time_us) return time_us and math.max(0, now - time_us) / 1000000 or 0 end
local function first_age_s(key) return age_s(tonumber(list('ZRANGE', key, 0, 0, 'WITHSCORES')[2])) end
