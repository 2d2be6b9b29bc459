-- Puts postbacks back that were taken but not tried, because their recipient has enough calls under way.
-- KEYS: due, inflight
-- ARGV: due_us, token, then ids
for i = 3, #ARGV do
  if redis.call('HGET', KEYS[2], ARGV[i]) == ARGV[2] then
    redis.call('HDEL', KEYS[2], ARGV[i])
    redis.call('ZADD', KEYS[1], ARGV[1], ARGV[i])
  end
end
return #ARGV - 2
