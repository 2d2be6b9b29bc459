-- Hands out what waits for a visitor's browser: up to so many that were never handed out, else one that was and that no
-- browser has confirmed since, alone, so that a snippet that breaks off the answer takes no other with it for ever.
-- KEYS: waiting list of the visitor, promises, due, tries, prefix of the marks
-- ARGV: now_us, time_us before which a hand-out counts as lost, token, how many, the only method or ''
-- Returns pairs of the try's number and the postback. A mark is `token time_us`; it goes when the postback has expired.
local out = {}
local function hand_out(id, postback, due)
  local left_ms = math.ceil((tonumber(due) - tonumber(ARGV[1])) / 1000)
  redis.call('SET', KEYS[5] .. ':' .. id, ARGV[3] .. ' ' .. ARGV[1], 'PX', math.max(left_ms, 1))
  table.insert(out, redis.call('HINCRBY', KEYS[4], id, 1))
  table.insert(out, postback)
end
local again
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
  local postback, due = redis.call('HGET', KEYS[2], id), redis.call('ZSCORE', KEYS[3], id)
  if not postback or not due or tonumber(due) <= tonumber(ARGV[1]) then
    redis.call('LREM', KEYS[1], 0, id)
  elseif #out < 2 * tonumber(ARGV[4]) and (ARGV[5] == '' or cmsgpack.unpack(postback).method == ARGV[5]) then
    local mark = redis.call('GET', KEYS[5] .. ':' .. id)
    if not mark then
      hand_out(id, postback, due)
    elseif not again and tonumber(string.match(mark, ' (%d+)$')) <= tonumber(ARGV[2]) then
      again = {id, postback, due}
    end
  end
end
if #out == 0 and again then hand_out(unpack(again)) end
return out
