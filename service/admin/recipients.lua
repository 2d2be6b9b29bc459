-- What an operator wants to know that belongs to no partition: how recipients are doing, who waits for them, what is in force.
-- Changes nothing. Behind asking.lua.
-- KEYS: rooms, paused, failing, rulebook, lease of the archive
-- ARGV: what the name of a recipient's room begins with, the operator, whose notices are nobody's postbacks
-- Returns a JSON document, see figures.py.
local paused, rooms = {}, {}
for _, recipient in ipairs(list('HKEYS', KEYS[2])) do paused[recipient] = true end
for _, state in ipairs({'busy', 'paused'}) do rooms[state] = {waiting = 0, oldest_s = 0} end
for _, recipient in ipairs(list('SMEMBERS', KEYS[1])) do
  if recipient ~= ARGV[2] then
    local room, sum = ARGV[1] .. recipient, rooms[paused[recipient] and 'paused' or 'busy']
    sum.waiting = sum.waiting + number('ZCARD', room)
    sum.oldest_s = math.max(sum.oldest_s, first_age_s(room))
  end
end

local recipients = {paused = number('HLEN', KEYS[2]), failing = number('HLEN', KEYS[3])}
return cjson.encode({
  rooms = rooms, recipients = recipients, rulebook = ask('GET', KEYS[4]) or '',
  archive_held = number('EXISTS', KEYS[5]), unreadable = unreadable,
})
