-- Makes a postback due again, whatever became of it: its id stays, its tries are numbered on, its ladder begins anew.
-- KEYS: due, promises, tries, inflight, bases, dead, ended, room
-- ARGV: id, postback, number of its last try as the tables know it, member of the room
-- Returns resent; due if it was due anyway and goes out now; waiting if its recipient is paused or busy; under_way.
local id = ARGV[1]
if redis.call('ZSCORE', KEYS[8], ARGV[4]) then return 'waiting' end
local held = redis.call('HGET', KEYS[4], id)
if held and string.sub(held, 1, 1) ~= '|' then return 'under_way' end
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000000 + tonumber(time[2]))
local waits = redis.call('ZSCORE', KEYS[1], id)
redis.call('ZADD', KEYS[1], now, id)
if waits then return 'due' end
local number = tonumber(ARGV[3])
local ended = redis.call('HGET', KEYS[7], id)
if ended then number = math.max(number, tonumber(string.match(ended, '^%d+'))) end
redis.call('HSET', KEYS[2], id, ARGV[2])
if number > 0 then
  redis.call('HSET', KEYS[3], id, string.format('%.0f', number))
  redis.call('HSET', KEYS[5], id, string.format('%.0f', number))
end
redis.call('ZREM', KEYS[6], id)
redis.call('HDEL', KEYS[7], id)
return 'resent'
