-- Appends one batch of hits to a partition's journal, once.
-- KEYS: journal, head, writers, wake, kept
-- ARGV: writer, counter, then for each hit: received_at_us, hit; last, if the writer remembers it, `epoch-seq` of an entry that
--   it has an answer for: a server that has lost it takes nothing
-- Returns {first seq, last seq, 1 if the wake flag was newly set, epoch}; {0, 0, 0} if the batch is there already.
local writer, counter = ARGV[1], tonumber(ARGV[2])
local done = tonumber(redis.call('HGET', KEYS[3], writer) or '0')
if counter <= done then return {0, 0, 0} end

local head = redis.call('HMGET', KEYS[2], 'epoch', 'seq', 'time')
local epoch, seq, time = head[1] or '1', tonumber(head[2] or '0'), tonumber(head[3] or '0')
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
local first = seq + 1
local last = #ARGV - 1
if last % 2 == 0 then
  local known_epoch, known_seq = string.match(ARGV[#ARGV], '(%d+)-(%d+)')
  if known_epoch == epoch and tonumber(known_seq) > seq then
    return redis.error_reply('LOST the journal ends at ' .. epoch .. '-' .. string.format('%.0f', seq) .. ', not at ' .. ARGV[#ARGV])
  end
  last = last - 1
end

-- a batch of which nobody knew whether it arrived: what the tables have of it stays out. The id follows 3 bytes of msgpack.
local kept = KEYS[5] and redis.call('EXISTS', KEYS[5]) == 1
local function stored(hit) return kept and redis.call('SISMEMBER', KEYS[5], string.sub(hit, 4, 35)) == 1 end

for i = 3, last, 2 do
  if not stored(ARGV[i + 1]) then
    local received = tonumber(ARGV[i])
    if received > now then received = now end
    if received > time then time = received end
    seq = seq + 1
    redis.call('XADD', KEYS[1], epoch .. '-' .. string.format('%.0f', seq), 't', string.format('%.0f', time), 'h', ARGV[i + 1])
  end
end
redis.call('HSET', KEYS[2], 'epoch', epoch, 'seq', string.format('%.0f', seq), 'time', string.format('%.0f', time))
redis.call('HSET', KEYS[3], writer, ARGV[2])
local woken = redis.call('SET', KEYS[4], '1', 'NX')
return {first, seq, woken and 1 or 0, epoch}
