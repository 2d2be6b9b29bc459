-- Keeps a partition for the actor that holds it, or lets it go although there is work left.
-- KEYS: fence, lease
-- ARGV: fence, lease_ms (0 lets go)
-- Returns 1, or 0 if another actor has taken the partition meanwhile.
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
if ARGV[2] == '0' then
  redis.call('DEL', KEYS[2])
else
  redis.call('SET', KEYS[2], ARGV[1], 'PX', ARGV[2])
end
return 1
