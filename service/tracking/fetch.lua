-- Reads what the engine may need for a batch: who owns its identifiers, which of its transactions are known, the owners.
-- KEYS: owners, txids, visitors
-- ARGV: number of identifiers, identifiers, transactions
-- Returns visitor id or nil for each identifier, time or nil for each transaction, visitor or nil for each different owner,
-- in order of its first identifier.
local MOST = 1000  -- values at a time: the stack of Lua is bounded

local function look_up(key, names)
  local found = {}
  for from = 1, #names, MOST do
    local values = redis.call('HMGET', key, unpack(names, from, math.min(from + MOST - 1, #names)))
    for i = 1, #values do found[from + i - 1] = values[i] end
  end
  return found
end

local count = tonumber(ARGV[1])
local identifiers, transactions, owners, seen = {}, {}, {}, {}
for i = 2, count + 1 do identifiers[i - 1] = ARGV[i] end
for i = count + 2, #ARGV do transactions[i - count - 1] = ARGV[i] end
local owned = look_up(KEYS[1], identifiers)
for i = 1, count do
  if owned[i] and not seen[owned[i]] then
    seen[owned[i]] = true
    owners[#owners + 1] = owned[i]
  end
end
return {owned, look_up(KEYS[2], transactions), look_up(KEYS[3], owners)}
