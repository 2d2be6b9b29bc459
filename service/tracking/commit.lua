-- Writes what one batch of decisions leaves behind, all of it or nothing: every check stands before the first write.
-- KEYS: fence, lease, tracked, head, owners, visitors, txids, caps, counts, decisions, postbacks, promises, due, settled, tries, dead, ended,
--   new, verdicts
-- ARGV: fence, lease_ms, seq before, epoch after, seq after, rulebook id, time_us, then thirteen lists, each with its length first:
--   owners (key, visitor), visitors (id, visitor), dropped visitors (id), txids (key, time), caps (key, count),
--   counts (field, increment), decisions (stream id, outcome), postbacks (id, due_us or 0, postback),
--   for browsers (waiting list, postback id, seconds), waiting lists of the absorbed (from, to),
--   dropped identifiers (key), caps whose period is over (key), verdicts (field, increment)
-- Returns the number of postbacks so far; an error tells what did not fit.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return redis.error_reply('FENCED another actor holds the partition') end
local tracked = redis.call('HGET', KEYS[3], 'seq') or '0'
if tracked ~= ARGV[3] then return redis.error_reply('POSITION is ' .. tracked .. ', not ' .. ARGV[3]) end
for i, wanted in ipairs({'hash', 'hash', 'hash', 'hash', 'hash', 'hash', 'hash', 'stream', 'stream', 'hash', 'zset'}) do
  local found = redis.call('TYPE', KEYS[i + 2])['ok']
  if found ~= 'none' and found ~= wanted then
    return redis.error_reply('TYPE of ' .. KEYS[i + 2] .. ' is ' .. found .. ', not ' .. wanted)
  end
end

local at = 8
local function each(width, visit)
  local last = at + tonumber(ARGV[at]) * width
  for i = at + 1, last, width do visit(i) end
  at = last + 1
end
local function put(key)
  return function(i) redis.call('HSET', key, ARGV[i], ARGV[i + 1]) end
end

each(2, put(KEYS[5]))
each(2, put(KEYS[6]))
each(1, function(i) redis.call('HDEL', KEYS[6], ARGV[i]) end)
each(2, put(KEYS[7]))
each(2, put(KEYS[8]))
-- a counter that would overflow stays as it is: nothing may stop the script here, and the log can always count again
each(2, function(i) redis.pcall('HINCRBY', KEYS[9], ARGV[i], ARGV[i + 1]) end)
each(2, function(i) redis.call('XADD', KEYS[10], ARGV[i], 'd', ARGV[i + 1]) end)
local n = tonumber(redis.call('HGET', KEYS[4], 'postbacks') or '0')
-- after Redis came back without its end, a postback is promised once more, and the tables know what became of it
local recalled = redis.call('EXISTS', KEYS[14]) == 1
local function promise(id, due, postback)
  local state, tries, moment = string.match(recalled and redis.call('HGET', KEYS[14], id) or '', '([%a_]+) (%d+) (%d+)')
  if state == 'delivered' or state == 'handed_out' then return end
  redis.call('HSET', KEYS[12], id, postback)
  if state == nil then
    redis.call('ZADD', KEYS[13], due, id)
    -- delivery takes these first; those for browsers are due when they expire, and are none of them
    if tonumber(due) <= tonumber(ARGV[7]) then redis.call('ZADD', KEYS[18], due, id) end
  elseif state == 'due' then
    redis.call('HSET', KEYS[15], id, tries)
    redis.call('ZADD', KEYS[13], moment, id)
  else
    redis.call('ZADD', KEYS[16], moment, id)
    redis.call('HSET', KEYS[17], id, tries .. ' ' .. state)
  end
end
each(3, function(i)
  n = n + 1
  redis.call('XADD', KEYS[11], '1-' .. string.format('%.0f', n), 'p', ARGV[i + 2])
  if ARGV[i + 1] ~= '0' then promise(ARGV[i], ARGV[i + 1], ARGV[i + 2]) end
end)
redis.call('HSET', KEYS[4], 'postbacks', string.format('%.0f', n))
each(3, function(i)
  redis.call('RPUSH', ARGV[i], ARGV[i + 1])
  redis.call('LTRIM', ARGV[i], -1000, -1) -- the newest; what falls out expires without having been looked at
  redis.call('EXPIRE', ARGV[i], ARGV[i + 2])
end)
each(2, function(i)
  local left = redis.call('PTTL', ARGV[i])
  if left > 0 then
    for _, id in ipairs(redis.call('LRANGE', ARGV[i], 0, -1)) do redis.call('RPUSH', ARGV[i + 1], id) end
    redis.call('PEXPIRE', ARGV[i + 1], math.max(left, redis.call('PTTL', ARGV[i + 1])))
    redis.call('DEL', ARGV[i])
  end
end)
each(1, function(i) redis.call('HDEL', KEYS[5], ARGV[i]) end)
each(1, function(i) redis.call('HDEL', KEYS[8], ARGV[i]) end)
each(2, function(i) redis.pcall('HINCRBY', KEYS[19], ARGV[i], ARGV[i + 1]) end) -- as above
redis.call('HSET', KEYS[3], 'epoch', ARGV[4], 'seq', ARGV[5], 'rulebook', ARGV[6], 'time', ARGV[7])
redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
return n
