-- Deletes what log time has forgotten, for the actor that holds the partition.
-- KEYS: fence, owners, visitors, txids, writers
-- ARGV: fence, then four lists, each with its length first: visitors (id, what was read of it), identifiers (key, visitor),
--   transactions (key, what was read), writers (name)
-- Returns how many keys went; -1 if another actor holds the partition.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return -1 end
local at, gone = 2, 0
local function each(width, visit)
  local last = at + tonumber(ARGV[at]) * width
  for i = at + 1, last, width do visit(i) end
  at = last + 1
end
local function drop_equal(key)
  return function(i)
    if redis.call('HGET', key, ARGV[i]) == ARGV[i + 1] then gone = gone + redis.call('HDEL', key, ARGV[i]) end
  end
end
each(2, drop_equal(KEYS[3]))
each(2, drop_equal(KEYS[2]))
each(2, drop_equal(KEYS[4]))
each(1, function(i) gone = gone + redis.call('HDEL', KEYS[5], ARGV[i]) end)
return gone
