-- Notes how far the tables are, for whoever wants to know without opening them.
-- KEYS: archived, meta
-- ARGV: 1 if what is there is not to be believed, else a note that is ahead stays: another archiver has made it; then
--   field, number
for i = 2, #ARGV, 2 do
  local noted = tonumber(redis.call('HGET', KEYS[1], ARGV[i]) or '0')
  if ARGV[1] == '1' or tonumber(ARGV[i + 1]) > noted then redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
end
redis.call('HSET', KEYS[2], 'tables', '1')
return 0
