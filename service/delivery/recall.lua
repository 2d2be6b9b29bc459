-- Tells Redis, which came back without its end, what the tables know to have become of a postback.
-- KEYS: due, promises, tries, inflight, dead, ended, settled
-- ARGV: id, state (due, delivered, failed, dead), tries, due_us or time of giving up, life of what is noted in seconds
-- A postback that Redis does not know will be promised again: it is noted until then.
if redis.call('HEXISTS', KEYS[2], ARGV[1]) == 0 then
  redis.call('HSET', KEYS[7], ARGV[1], ARGV[2] .. ' ' .. ARGV[3] .. ' ' .. ARGV[4])
  redis.call('EXPIRE', KEYS[7], ARGV[5])
  return 0
end
redis.call('HDEL', KEYS[4], ARGV[1])
if ARGV[2] == 'due' then
  redis.call('HSET', KEYS[3], ARGV[1], ARGV[3])
  redis.call('ZADD', KEYS[1], ARGV[4], ARGV[1])
  return 1
end
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[2] == 'delivered' then
  redis.call('HDEL', KEYS[2], ARGV[1])
else
  redis.call('ZADD', KEYS[5], ARGV[4], ARGV[1])
  redis.call('HSET', KEYS[6], ARGV[1], ARGV[3] .. ' ' .. ARGV[2])
end
return 1
