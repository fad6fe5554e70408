-- ARGV: epoch, the caller's own clock in seconds, how long past expiry, how many at most.
if not is_present(tonumber(ARGV[1])) then return CHANGED end
if not record.whole then return LOST end
local before = math.min(tonumber(ARGV[2]), tonumber(time[1])) - tonumber(ARGV[3])
local gone = redis.call('ZRANGEBYSCORE', EXPIRY, '-inf', '(' .. int(before), 'LIMIT', 0, ARGV[4])
for _, member in ipairs(gone) do
  redis.call('ZREM', LIVE, member)
  redis.call('ZREM', EXPIRY, member)
  redis.call('HDEL', ENTRIES, member)
end
keep_size()
return #gone
