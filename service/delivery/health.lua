-- What a try says about its recipient: a run of failures, or 410, pauses it; success ends the run and reopens it. The notice
-- to the operator is promised in the same step, so that it cannot be lost.
-- KEYS: failing, failing since, paused, probes, promises and due of the operator
-- ARGV: recipient, ok or failed or gone, failures and span_us of a run, probe_us and its longest, reason, then pairs of
-- notices to promise if it is paused: id, postback; after `/` the same for reopened
-- Returns paused, reopened or nothing.
local time = redis.call('TIME')
local now = tonumber(time[1]) * 1000000 + tonumber(time[2])
local who, what = ARGV[1], ARGV[2]
local function promise(from)
  local due = string.format('%.0f', now)
  while from < #ARGV and ARGV[from] ~= '/' do
    redis.call('HSET', KEYS[5], ARGV[from], ARGV[from + 1])
    redis.call('ZADD', KEYS[6], due, ARGV[from])
    from = from + 2
  end
  return from
end
local function skip(from)
  while ARGV[from] ~= '/' do from = from + 2 end
  return from + 1
end
if what == 'ok' then
  redis.call('HDEL', KEYS[1], who)
  redis.call('HDEL', KEYS[2], who)
  if redis.call('HDEL', KEYS[3], who) == 0 then return '' end
  redis.call('ZREM', KEYS[4], who)
  promise(skip(8))
  return 'reopened'
end
local paused = redis.call('HGET', KEYS[3], who)
if paused then
  local state = cjson.decode(paused)
  if not state['probing'] then return '' end -- a call that was under way when the pause began
  state['probing'], state['probes'] = nil, state['probes'] + 1
  redis.call('HSET', KEYS[3], who, cjson.encode(state))
  local wait = math.min(tonumber(ARGV[5]) * 2 ^ math.min(state['probes'], 30), tonumber(ARGV[6]))
  redis.call('ZADD', KEYS[4], string.format('%.0f', now + (what == 'gone' and tonumber(ARGV[6]) or wait)), who)
  return ''
end
local failures = redis.call('HINCRBY', KEYS[1], who, 1)
redis.call('HSETNX', KEYS[2], who, string.format('%.0f', now))
local since = tonumber(redis.call('HGET', KEYS[2], who))
if what ~= 'gone' and (failures < tonumber(ARGV[3]) or now - since < tonumber(ARGV[4])) then return '' end
local state = {since = string.format('%.0f', now), reason = ARGV[7], failures = failures, probes = 0}
redis.call('HSET', KEYS[3], who, cjson.encode(state))
redis.call('ZADD', KEYS[4], string.format('%.0f', now + tonumber(what == 'gone' and ARGV[6] or ARGV[5])), who)
promise(8)
return 'paused'
