-- Hands out one postback that waits in its recipient's room, unless another was faster.
-- KEYS: room, rooms, then due, promises, tries, inflight, bases, new
-- ARGV: now_us or '' for the clock of Redis, lease_us, token, member of the room, postback id, recipient
-- Returns the same as take.
local now = clock(ARGV[1])
local out = {string.format('%.0f', now)}
if redis.call('ZREM', KEYS[1], ARGV[4]) == 0 then return out end
if redis.call('EXISTS', KEYS[1]) == 0 then redis.call('SREM', KEYS[2], ARGV[6]) end
hand_out(out, 0, {unpack(KEYS, 3, 8)}, ARGV[5], now, tonumber(ARGV[2]), ARGV[3])
return out
