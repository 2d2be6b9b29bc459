-- Takes visitors out of a partition for good, all of it or nothing. Whoever decides a batch with them meanwhile is fenced out: the
-- fence goes on, the lease ends, and a reconciler wakes the next actor.
-- KEYS: fence, lease, tracked, owners, visitors
-- ARGV: number of visitors, then for each its id and what is stored of it ('' for nothing), then keys of owners
-- Returns seq of the last decided entry, and the number of keys of owners; an error if a visitor is not as it was read.
local count = tonumber(ARGV[1])
for i = 2, 2 * count, 2 do
  if (redis.call('HGET', KEYS[5], ARGV[i]) or '') ~= ARGV[i + 1] then return redis.error_reply('CHANGED ' .. ARGV[i]) end
end
redis.call('INCR', KEYS[1])
redis.call('DEL', KEYS[2])
for i = 2, 2 * count, 2 do redis.call('HDEL', KEYS[5], ARGV[i]) end
local owners = 0
for i = 2 * count + 2, #ARGV do owners = owners + redis.call('HDEL', KEYS[4], ARGV[i]) end
return {tonumber(redis.call('HGET', KEYS[3], 'seq') or '0'), owners}
