-- What both takers begin with: the clock, and handing out one postback. It stays in the due index with the end of its
-- lease as the time it is due again, so a delivery that never settles comes back by itself. A number is given to every
-- try when it is handed out, so that no two tries of a postback ever have the same. What is in flight is marked
-- `token|first number that is not recorded`: whoever finds the mark of another knows which tries nobody told the end of.
-- The index of what is new is a hint, which may name what is due no more.
local function clock(given)
  if given ~= '' then return tonumber(given) end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end
local function hand_out(out, part, keys, id, now, lease_us, token)
  local due, promises, tries, inflight, bases, new = unpack(keys)
  local postback = redis.call('HGET', promises, id)
  redis.call('ZREM', new, id)
  if not postback then
    redis.call('ZREM', due, id)
    return false
  end
  local held = redis.call('HGET', inflight, id)
  local number = redis.call('HINCRBY', tries, id, 1)
  local first = held and string.match(held, '|(%d+)$') or tostring(number)
  local mark = token .. '|' .. first
  redis.call('HSET', inflight, id, mark)
  redis.call('ZADD', due, string.format('%.0f', now + lease_us), id)
  for _, value in ipairs({part, number, tonumber(first), tonumber(redis.call('HGET', bases, id) or '0'), mark, postback}) do
    table.insert(out, value)
  end
  return true
end
