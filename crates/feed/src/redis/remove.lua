-- ARGV: epoch, members.
if not is_present(tonumber(ARGV[1])) then return CHANGED end
for i = 2, #ARGV do
  redis.call('ZREM', LIVE, ARGV[i])
  redis.call('ZREM', EXPIRY, ARGV[i])
  redis.call('HDEL', ENTRIES, ARGV[i])
end
return 'OK'
