-- Records one hand-out, or what the browser said of it, for whoever knows its token.
-- KEYS: promises, due, tries, head, attempts, dead, ended, mark
-- ARGV: id, token, now_us, number, state (due, delivered, handed_out, failed), attempt
-- Returns 1, or 0 for a token that is unknown, was used, or has expired.
local mark = redis.call('GET', KEYS[8])
if not mark or string.match(mark, '^%S+') ~= ARGV[2] or not redis.call('ZSCORE', KEYS[2], ARGV[1]) then return 0 end
local n = redis.call('HINCRBY', KEYS[4], 'attempts', 1)
redis.call('XADD', KEYS[5], '1-' .. string.format('%.0f', n), 'a', ARGV[6])
if ARGV[5] == 'due' then return 1 end
redis.call('DEL', KEYS[8])
redis.call('ZREM', KEYS[2], ARGV[1])
redis.call('HDEL', KEYS[3], ARGV[1])
if ARGV[5] == 'failed' then
  redis.call('ZADD', KEYS[6], ARGV[3], ARGV[1])
  redis.call('HSET', KEYS[7], ARGV[1], ARGV[4] .. ' failed')
else
  redis.call('HDEL', KEYS[1], ARGV[1])
end
return 1
