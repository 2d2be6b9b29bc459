-- Hands out postbacks that are due. Each stays in the index with the end of its lease as the time it is due again, so
-- a delivery that never settles comes back by itself.
-- KEYS: due, promises, tries, inflight
-- ARGV: now_us, lease_end_us, how many, token
-- Returns for each: id, tries so far, 1 if an earlier delivery never settled, postback. Writes nothing if nothing is due.
local out = {}
local ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1], 'LIMIT', 0, ARGV[3])
for _, id in ipairs(ids) do
  local postback = redis.call('HGET', KEYS[2], id)
  if postback then
    local lost = redis.call('HEXISTS', KEYS[4], id)
    redis.call('HSET', KEYS[4], id, ARGV[4])
    redis.call('ZADD', KEYS[1], ARGV[2], id)
    table.insert(out, id)
    table.insert(out, redis.call('HGET', KEYS[3], id) or '0')
    table.insert(out, lost)
    table.insert(out, postback)
  else
    redis.call('ZREM', KEYS[1], id)
  end
end
return out
