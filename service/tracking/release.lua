-- Gives a partition back, but only if nothing came in since the actor's last read: no wake-up can fall between.
-- KEYS: fence, lease, wake, head, tracked
-- ARGV: fence
-- Returns 1 if it was given back (or belongs to somebody else by now), 0 if there is work.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 1 end
local seq = tonumber(redis.call('HGET', KEYS[4], 'seq') or '0')
local tracked = tonumber(redis.call('HGET', KEYS[5], 'seq') or '0')
if seq > tracked then return 0 end
redis.call('DEL', KEYS[2], KEYS[3])
return 1
