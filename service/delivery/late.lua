-- Gives a number to a try whose answer came after its lease was lost; it costs the postback no rung of the ladder.
-- KEYS: tries, bases, ended, the number of a delivered one
-- ARGV: id, seconds for which a late answer can still be numbered
-- Returns number and state of the postback, nothing if nobody knows it any more.
if redis.call('HEXISTS', KEYS[1], ARGV[1]) == 1 then
  redis.call('HINCRBY', KEYS[2], ARGV[1], 1)
  return {redis.call('HINCRBY', KEYS[1], ARGV[1], 1), 'due'}
end
local ended = redis.call('HGET', KEYS[3], ARGV[1])
if ended then
  local number, state = string.match(ended, '(%d+) (%a+)')
  redis.call('HSET', KEYS[3], ARGV[1], string.format('%.0f', number + 1) .. ' ' .. state)
  return {tonumber(number) + 1, state}
end
if redis.call('EXISTS', KEYS[4]) == 1 then
  local number = redis.call('INCR', KEYS[4])
  redis.call('EXPIRE', KEYS[4], ARGV[2])
  return {number, 'delivered'}
end
return {}
