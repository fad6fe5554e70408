-- ARGV: epoch, then members, each with the position up to which it may be taken out: one that moved on since says more.
if not is_present(tonumber(ARGV[1])) then return CHANGED end
if not record.whole then return LOST end
for i = 2, #ARGV, 2 do
  local position = redis.call('ZSCORE', LIVE, ARGV[i])
  if position and tonumber(position) <= tonumber(ARGV[i + 1]) then
    redis.call('ZREM', LIVE, ARGV[i])
    redis.call('ZREM', EXPIRY, ARGV[i])
    redis.call('HDEL', ENTRIES, ARGV[i])
  end
end
keep_size()
return 'OK'
