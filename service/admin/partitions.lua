-- What an operator wants to know of some partitions: changes nothing, and reads a few items of each. Behind asking.lua.
-- KEYS: archived, then of each partition: head, tracked, lease, due, dead, poison, visitors, owners, verdicts, then its streams
--   in the order of their names
-- ARGV: number of the first partition, then the names of the streams' tables
-- Returns a JSON document, see figures.py.

-- the log time of an item: a field of its own in the journal, part of the packed value elsewhere
local function time_of(item)
  local fields = item[2]
  if fields[1] == 't' then return tonumber(fields[2]) end
  local well, row = pcall(cmsgpack.unpack, fields[2])
  return well and type(row) == 'table' and tonumber(row['time_us'])
end

-- Seconds since the first item of a stream whose number is higher. Ids are `epoch-number`, and numbers go on over all epochs.
local function behind_s(stream, done)
  local from, after = '', '-' .. string.format('%.0f', done + 1)
  local epoch = '1'
  while epoch .. after ~= from do
    from = epoch .. after
    local item = list('XRANGE', stream, from, '+', 'COUNT', 1)[1]
    if not item then return 0 end
    local its_number
    epoch, its_number = string.match(item[1], '(%d+)-(%d+)')
    if tonumber(its_number) > done then return age_s(time_of(item)) end
  end
  return 0
end

local streams = #ARGV - 1
local width = 9 + streams

local function partition(at, place)
  local names = {}
  for i = 1, streams do names[i] = ARGV[i + 1] .. '/' .. place end
  local archived = list('HMGET', KEYS[1], unpack(names))
  local head = list('HMGET', KEYS[at], 'seq', 'postbacks', 'attempts', 'epoch')
  local logged, tracked = whole(head[1]), number('HGET', KEYS[at + 1], 'seq')
  local due = KEYS[at + 3]
  local now_due = number('ZCOUNT', due, '-inf', string.format('%.0f', now))
  local found = {
    logged = logged, postbacks = whole(head[2]), attempts = whole(head[3]), epoch = math.max(1, whole(head[4])),
    held = number('EXISTS', KEYS[at + 2]), due = now_due, later = number('ZCARD', due) - now_due,
    due_s = now_due > 0 and first_age_s(due) or 0, given_up = number('ZCARD', KEYS[at + 4]),
    set_aside = number('HLEN', KEYS[at + 5]), visitors = number('HLEN', KEYS[at + 6]),
    identifiers = number('HLEN', KEYS[at + 7]), verdicts = map(KEYS[at + 8]),
    to_decide = math.max(0, logged - tracked), to_decide_s = 0, streams = {},
  }
  for i = 1, streams do
    local stream, name = KEYS[at + 8 + i], ARGV[i + 1]
    -- rulebook entries have no decision, so the end of the journal tells nothing of the last one
    local last = ({hits = logged, postbacks = found.postbacks, attempts = found.attempts})[name]
    if not last then
      local item = list('XREVRANGE', stream, '+', '-', 'COUNT', 1)[1]
      last = item and tonumber(string.match(item[1], '%-(%d+)')) or 0
    end
    local done = whole(archived[i])
    found.streams[name] = {
      kept = number('XLEN', stream), to_archive = math.max(0, last - done),
      to_archive_s = last > done and behind_s(stream, done) or 0,
    }
    if name == 'hits' and logged > tracked then found.to_decide_s = behind_s(stream, tracked) end
  end
  return found
end

local partitions = {}
for at = 2, #KEYS, width do table.insert(partitions, partition(at, tonumber(ARGV[1]) + (at - 2) / width)) end
return cjson.encode({partitions = partitions, unreadable = unreadable})
