-- Puts a postback that was taken and not tried into the room of its recipient, out of the due index: there it costs
-- nobody anything until its recipient can be called.
-- KEYS: due, inflight, tries, room, rooms
-- ARGV: mark, id, member of the room, time_us, recipient
if redis.call('HGET', KEYS[2], ARGV[2]) ~= ARGV[1] then return 0 end
local first = string.match(ARGV[1], '|(%d+)$')
local number = redis.call('HINCRBY', KEYS[3], ARGV[2], -1)
if number <= 0 then redis.call('HDEL', KEYS[3], ARGV[2]) end
if tonumber(first) <= number then
  redis.call('HSET', KEYS[2], ARGV[2], '|' .. first)
else
  redis.call('HDEL', KEYS[2], ARGV[2])
end
redis.call('ZREM', KEYS[1], ARGV[2])
redis.call('ZADD', KEYS[4], ARGV[4], ARGV[3])
redis.call('SADD', KEYS[5], ARGV[5])
return 1
