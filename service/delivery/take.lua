-- Hands out postbacks that are due: up to half of them are the newest of the last second, so that no backlog makes a new one
-- wait, the others the oldest.
-- KEYS: due, promises, tries, inflight, bases of each partition
-- ARGV: now_us or '' for the clock of Redis, lease_us, how many in all, token
-- Returns now_us, then for each: place in KEYS, number of the try, first number not recorded, tries before a resend, mark,
-- postback. Writes nothing if nothing is due.
local now, lease_us, left = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local out, limit = {string.format('%.0f', now)}, string.format('%.0f', now)
local fresh = string.format('%.0f', now - 1000000)
local function take(part, newest, most)
  local keys = {unpack(KEYS, part * 5 + 1, part * 5 + 5)}
  local ids
  if newest then
    ids = redis.call('ZREVRANGEBYSCORE', keys[1], limit, fresh, 'LIMIT', 0, most)
  else
    ids = redis.call('ZRANGEBYSCORE', keys[1], '-inf', limit, 'LIMIT', 0, most)
  end
  for _, id in ipairs(ids) do
    if hand_out(out, part, keys, id, now, lease_us, ARGV[4]) then left = left - 1 end
  end
end
local parts = {} -- those with something due: most have nothing, and to ask them once is enough
for part = 0, #KEYS / 5 - 1 do
  local first = redis.call('ZRANGE', KEYS[part * 5 + 1], 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) <= now then table.insert(parts, part) end
end
local share, old = math.max(1, math.floor(left / 4)), math.floor(left / 2)
for _, pass in ipairs({{true, share, old}, {false, share, 0}, {false, left, 0}}) do
  for _, part in ipairs(parts) do
    local most = math.min(pass[2], left - pass[3])
    if most > 0 then take(part, pass[1], most) end
  end
end
return out
