-- Puts a rulebook in force in every partition at once.
-- KEYS: rulebook in force, rulebooks, then journal, head, wake of each partition
-- ARGV: id, text
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1])
for i = 3, #KEYS, 3 do
  local head = redis.call('HMGET', KEYS[i + 1], 'epoch', 'seq', 'time')
  local epoch, seq, time = head[1] or '1', tonumber(head[2] or '0') + 1, tonumber(head[3] or '0')
  if now > time then time = now end
  redis.call('XADD', KEYS[i], epoch .. '-' .. string.format('%.0f', seq), 't', string.format('%.0f', time), 'r', ARGV[1])
  redis.call('HSET', KEYS[i + 1], 'epoch', epoch, 'seq', string.format('%.0f', seq), 'time', string.format('%.0f', time))
  redis.call('SET', KEYS[i + 2], '1')
end
return #KEYS
