-- Appends one attempt.
-- KEYS: head, attempts
-- ARGV: attempt
local n = redis.call('HINCRBY', KEYS[1], 'attempts', 1)
redis.call('XADD', KEYS[2], '1-' .. string.format('%.0f', n), 'a', ARGV[1])
return n
