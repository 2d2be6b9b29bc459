-- Records what became of deliveries of one partition: for those that still hold their postback, all of it or nothing.
-- KEYS: due, promises, tries, inflight, head, attempts, dead, bases, ended
-- ARGV: now_us, seconds for which a late answer can still be numbered, prefix of its keys, then for each delivery: id, mark,
-- number, state (due, delivered, failed, dead), next_due_us, count of attempts, attempts
-- Returns the ids that others hold by now: nothing is recorded for them.
local late = {}
local at = 4
local n = tonumber(redis.call('HGET', KEYS[5], 'attempts') or '0')
while at < #ARGV do
  local id, mark, number, state, due, count = unpack(ARGV, at, at + 5)
  if redis.call('HGET', KEYS[4], id) ~= mark then
    table.insert(late, id)
  else
    for i = at + 6, at + 5 + count do
      n = n + 1
      redis.call('XADD', KEYS[6], '1-' .. string.format('%.0f', n), 'a', ARGV[i])
    end
    redis.call('HDEL', KEYS[4], id)
    if state == 'due' then
      redis.call('ZADD', KEYS[1], due, id)
    else
      redis.call('ZREM', KEYS[1], id)
      redis.call('HDEL', KEYS[3], id)
      redis.call('HDEL', KEYS[8], id)
      if state == 'delivered' then
        redis.call('HDEL', KEYS[2], id)
        if string.match(mark, '|(%d+)$') ~= number then redis.call('SET', ARGV[3] .. id, number, 'EX', ARGV[2]) end
      else
        redis.call('ZADD', KEYS[7], ARGV[1], id)
        redis.call('HSET', KEYS[9], id, number .. ' ' .. state)
      end
    end
  end
  at = at + 6 + count
end
redis.call('HSET', KEYS[5], 'attempts', string.format('%.0f', n))
return late
