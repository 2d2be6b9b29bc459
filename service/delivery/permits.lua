-- How many calls a recipient's rate allows now, over all workers. Unused time is kept for a fifth of a second only.
-- KEYS: rates
-- ARGV: recipient, us between two calls, how many are wanted
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local apart, granted = tonumber(ARGV[2]), 0
local next = math.max(tonumber(redis.call('HGET', KEYS[1], ARGV[1]) or '0'), now - 200000)
while granted < tonumber(ARGV[3]) and next <= now do
  next = next + apart
  granted = granted + 1
end
if granted > 0 then redis.call('HSET', KEYS[1], ARGV[1], string.format('%.0f', next)) end
return granted
