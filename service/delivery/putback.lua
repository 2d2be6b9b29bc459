-- Puts postbacks back that were taken but not tried, because their recipient has enough calls under way.
-- KEYS: due, inflight
-- ARGV: due_us, token, id, 1 if an earlier delivery never settled: its mark stays, so that the next taker is told too
if redis.call('HGET', KEYS[2], ARGV[3]) ~= ARGV[2] then return 0 end
if ARGV[4] == '1' then redis.call('HSET', KEYS[2], ARGV[3], '') else redis.call('HDEL', KEYS[2], ARGV[3]) end
redis.call('ZADD', KEYS[1], ARGV[1], ARGV[3])
return 1
