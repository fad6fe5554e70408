-- ARGV: the epoch.
if not is_present(tonumber(ARGV[1])) then return CHANGED end
if not record.whole then return LOST end
redis.call('HSET', EPOCH, 'seeded', '1')
return 'OK'
