-- How far everything is behind, all of it at one moment: what moves from one place to another is counted once.
-- KEYS: archived, rooms, then head, tracked, due, decisions of each partition
-- ARGV: what the name of a recipient's room begins with, the operator, whose notices are nobody's postbacks
-- Returns how many wait in rooms, the fields and values of archived, then for each partition: the last seq, postback and
-- attempt, the last decided seq, how many are due, the id of the last decision ('' where there is none).
local in_rooms = 0
for _, recipient in ipairs(redis.call('SMEMBERS', KEYS[2])) do
  if recipient ~= ARGV[2] then in_rooms = in_rooms + redis.call('ZCARD', ARGV[1] .. recipient) end
end
local out = {in_rooms, redis.call('HGETALL', KEYS[1])}
for at = 3, #KEYS, 4 do
  local head = redis.call('HMGET', KEYS[at], 'seq', 'postbacks', 'attempts')
  local last = redis.call('XREVRANGE', KEYS[at + 3], '+', '-', 'COUNT', 1)[1]
  table.insert(out, {
    head[1] or '0', head[2] or '0', head[3] or '0', redis.call('HGET', KEYS[at + 1], 'seq') or '0',
    redis.call('ZCARD', KEYS[at + 2]), last and last[1] or '',
  })
end
return out
