-- Lets exactly one courier probe a paused recipient when its time has come.
-- KEYS: probes, paused
-- ARGV: recipient, us until somebody else may if this one dies
-- Returns 1 for the one who may.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local at = tonumber(redis.call('ZSCORE', KEYS[1], ARGV[1]) or 'inf')
if at > now then return 0 end
redis.call('ZADD', KEYS[1], string.format('%.0f', now + tonumber(ARGV[2])), ARGV[1])
local state = cjson.decode(redis.call('HGET', KEYS[2], ARGV[1]) or '{"probes": 0}')
state['probing'] = true
redis.call('HSET', KEYS[2], ARGV[1], cjson.encode(state))
return 1
