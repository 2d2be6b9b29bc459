-- Records what became of one delivery: the attempts always, the state only for the delivery that still holds the postback.
-- KEYS: due, promises, tries, inflight, head, attempts, dead
-- ARGV: id, token, state (due, delivered, failed, dead), next_due_us, now_us, then the attempts
-- Returns 1 if the state was set.
local n = tonumber(redis.call('HGET', KEYS[5], 'attempts') or '0')
for i = 6, #ARGV do
  n = n + 1
  redis.call('XADD', KEYS[6], '1-' .. string.format('%.0f', n), 'a', ARGV[i])
end
redis.call('HSET', KEYS[5], 'attempts', string.format('%.0f', n))
if redis.call('HGET', KEYS[4], ARGV[1]) ~= ARGV[2] then return 0 end
redis.call('HDEL', KEYS[4], ARGV[1])
if ARGV[3] == 'due' then
  redis.call('HINCRBY', KEYS[3], ARGV[1], #ARGV - 5)
  redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
  return 1
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[3] == 'delivered' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[7], ARGV[5], ARGV[1])
end
return 1
