-- Puts a rulebook in force in every partition at once, all of it or nothing: every check stands before the first write.
-- The reconciler wakes the actors.
-- KEYS: rulebook in force, rulebooks, then journal and head of each partition
-- ARGV: id, text
local function check(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply('TYPE of ' .. key .. ' is ' .. found .. ', not ' .. wanted)
  end
end
for i = 1, #KEYS do
  local wanted = i == 1 and 'string' or (i > 2 and i % 2 == 1) and 'stream' or 'hash'
  local wrong = check(KEYS[i], wanted)
  if wrong then return wrong end
end

local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('SET', KEYS[1], ARGV[1])
for i = 3, #KEYS, 2 do
  local head = redis.call('HMGET', KEYS[i + 1], 'epoch', 'seq', 'time')
  local epoch, seq, time = head[1] or '1', tonumber(head[2] or '0') + 1, tonumber(head[3] or '0')
  if now > time then time = now end
  redis.call('XADD', KEYS[i], epoch .. '-' .. string.format('%.0f', seq), 't', string.format('%.0f', time), 'r', ARGV[1])
  redis.call('HSET', KEYS[i + 1], 'epoch', epoch, 'seq', string.format('%.0f', seq), 'time', string.format('%.0f', time))
end
return #KEYS
