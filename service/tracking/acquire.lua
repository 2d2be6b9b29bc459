-- Takes a partition for one actor.
-- KEYS: lease, fence, wake
-- ARGV: lease_ms
-- Returns the fence number, 0 if another actor holds the partition. The wake flag stays set while an actor is at work.
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
local fence = redis.call('INCR', KEYS[2])
redis.call('SET', KEYS[1], fence, 'PX', ARGV[1])
redis.call('SET', KEYS[3], '1')
return fence
