-- Hands out postbacks that are due, half of them the newest, so that no backlog makes a new one wait, half the oldest.
-- KEYS: due, promises, tries, inflight, bases of each partition
-- ARGV: now_us or '' for the clock of Redis, lease_us, how many in all, token
-- Returns now_us, then for each: place in KEYS, number of the try, first number not recorded, tries before a resend, mark,
-- postback. Writes nothing if nothing is due.
local now, lease_us, left = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local out, limit = {string.format('%.0f', now)}, string.format('%.0f', now)
local function take(part, most)
  local keys = {unpack(KEYS, part * 5 + 1, part * 5 + 5)}
  local newest = redis.call('ZREVRANGEBYSCORE', keys[1], limit, '-inf', 'LIMIT', 0, math.ceil(most / 2))
  local had = #newest
  for _, id in ipairs(newest) do
    if hand_out(out, part, keys, id, now, lease_us, ARGV[4]) then left = left - 1 end
  end
  if had < math.ceil(most / 2) or most == had then return end
  for _, id in ipairs(redis.call('ZRANGEBYSCORE', keys[1], '-inf', limit, 'LIMIT', 0, most - had)) do
    if hand_out(out, part, keys, id, now, lease_us, ARGV[4]) then left = left - 1 end
  end
end
for _, share in ipairs({math.max(1, math.floor(left / 4)), left}) do
  for part = 0, #KEYS / 5 - 1 do
    if left > 0 then take(part, math.min(share, left)) end
  end
end
return out
