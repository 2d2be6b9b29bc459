-- Hands out postbacks that are due, so that nobody who is new waits for a backlog. New is what was promised within the last
-- minute and never tried: of them, half are the newest and half the oldest. All others are the backlog: the oldest first, and
-- no more than is allowed.
-- KEYS: due, promises, tries, inflight, bases, new of each partition
-- ARGV: now_us or '' for the clock of Redis, lease_us, how many in all, how many of the backlog, token, us for which one is new
-- Returns now_us, then for each: place in KEYS, number of the try, first number not recorded, tries before a resend, mark,
-- postback. Writes nothing if nothing is due.
local now, lease_us, left, backlog = clock(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), tonumber(ARGV[4])
local out, limit = {string.format('%.0f', now)}, string.format('%.0f', now)
local no_more_new = '(' .. string.format('%.0f', now - tonumber(ARGV[6]))
local function found(keys, what, most)
  if what == 'newest' then return redis.call('ZREVRANGEBYSCORE', keys[6], limit, '-inf', 'LIMIT', 0, most) end
  return redis.call('ZRANGEBYSCORE', what == 'new' and keys[6] or keys[1], '-inf', limit, 'LIMIT', 0, most)
end
local function may_go(keys, what, id)
  if what == 'backlog' then return not redis.call('ZSCORE', keys[6], id) end
  local due = redis.call('ZSCORE', keys[1], id)
  if due and tonumber(due) <= now then return true end
  redis.call('ZREM', keys[6], id) -- it was a hint only
end
local function take(part, what, most)
  local keys = {unpack(KEYS, part * 6 + 1, part * 6 + 6)}
  for _, id in ipairs(found(keys, what, most)) do
    if may_go(keys, what, id) and hand_out(out, part, keys, id, now, lease_us, ARGV[5]) then
      left = left - 1
      if what == 'backlog' then backlog = backlog - 1 end
    end
  end
end
local parts = {} -- those with something due: most have nothing, and to ask them once is enough
for part = 0, #KEYS / 6 - 1 do
  local first = redis.call('ZRANGE', KEYS[part * 6 + 1], 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) <= now then
    table.insert(parts, part)
    redis.call('ZREMRANGEBYSCORE', KEYS[part * 6 + 6], '-inf', no_more_new)
  end
end
local function pass(what, share, most)
  local keep = left - math.min(left, most)
  for _, part in ipairs(parts) do
    local wanted = math.min(share, left - keep, what == 'backlog' and backlog or left)
    if wanted > 0 then take(part, what, wanted) end
  end
end
-- the backlog comes first, so that many new ones do not starve it; it is let in by handfuls
local share = math.max(1, math.floor(left / 4))
pass('backlog', math.max(1, math.floor(backlog / 4)), math.max(1, math.floor(left / 2)))
pass('newest', share, math.max(1, math.ceil(left / 2)))
pass('new', share, left)
pass('new', left, left)
pass('backlog', left, left)
return out
