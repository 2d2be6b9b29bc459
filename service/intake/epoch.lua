-- Lets a server that was started be used, after its end was compared with the tables. Where it has lost entries, a new epoch
-- begins in every partition, with an entry that says so and puts the rulebook in force again.
-- KEYS: meta, rulebook in force, rulebooks, then journal and head of each partition
-- ARGV: run of the server, rulebook that the tables know to be in force ("" if Redis is right), its text, highest epoch in the
--   tables, then for each partition: highest archived seq, its log time, highest archived attempt, epoch and seq of the last
--   entry that somebody remembers
-- Returns the number of the new epoch, 0 if nothing was lost. A key of the wrong type is passed over: it stops its partition.
local function usable(i)
  local journal, head = redis.call('TYPE', KEYS[i])['ok'], redis.call('TYPE', KEYS[i + 1])['ok']
  return (journal == 'none' or journal == 'stream') and (head == 'none' or head == 'hash')
end
local function whole(number) return string.format('%.0f', number) end

local places, lost, epoch = {}, false, tonumber(ARGV[4])
for i = 4, #KEYS, 2 do
  if usable(i) then
    local at = 5 + (i - 4) / 2 * 5
    local head = redis.call('HMGET', KEYS[i + 1], 'epoch', 'seq', 'time', 'attempts')
    local p = {
      journal = KEYS[i], head = KEYS[i + 1], epoch = tonumber(head[1] or '1'), seq = tonumber(head[2] or '0'),
      time = math.max(tonumber(head[3] or '0'), tonumber(ARGV[at + 1])), attempts = tonumber(head[4] or '0'),
      archived = tonumber(ARGV[at]), tried = tonumber(ARGV[at + 2]), known = 0,
    }
    if tonumber(ARGV[at + 3]) == p.epoch then p.known = tonumber(ARGV[at + 4]) end
    if p.seq < math.max(p.archived, p.known) or p.attempts < p.tried then lost = true end
    epoch = math.max(epoch, p.epoch)
    table.insert(places, p)
  end
end
redis.call('HSET', KEYS[1], 'run', ARGV[1])
if not lost then return 0 end

if ARGV[2] ~= '' then
  redis.call('HSET', KEYS[3], ARGV[2], ARGV[3])
  redis.call('SET', KEYS[2], ARGV[2])
end
local rulebook = redis.call('GET', KEYS[2]) or ''
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * 1000000 + tonumber(clock[2])
epoch = epoch + 1
for _, p in ipairs(places) do
  local seq, time = math.max(p.seq, p.archived, p.known) + 1, math.max(p.time, now)
  redis.call('XADD', p.journal, whole(epoch) .. '-' .. whole(seq), 't', whole(time), 'r', rulebook,
    'e', 'came_back=' .. whole(p.seq) .. ' archived=' .. whole(p.archived) .. ' remembered=' .. whole(p.known))
  redis.call('HSET', p.head, 'epoch', whole(epoch), 'seq', whole(seq), 'time', whole(time),
    'attempts', whole(math.max(p.attempts, p.tried)))
end
return epoch
