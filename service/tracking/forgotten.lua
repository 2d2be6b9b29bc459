-- Finds the partitions whose journal is ahead of tracking and that no actor holds.
-- KEYS: head, tracked, lease of each partition
-- Returns their places in KEYS, from 0.
local found = {}
for i = 1, #KEYS, 3 do
  local head = tonumber(redis.call('HGET', KEYS[i], 'seq') or '0')
  local tracked = tonumber(redis.call('HGET', KEYS[i + 1], 'seq') or '0')
  if head > tracked and redis.call('EXISTS', KEYS[i + 2]) == 0 then found[#found + 1] = (i - 1) / 3 end
end
return found
