-- KEYS[8]: the lease. ARGV: name, value. What another run has written there since stays.
if redis.call('GET', KEYS[8]) == ARGV[2] then
  redis.call('DEL', KEYS[8])
  redis.call('ZREM', LEASES, ARGV[1])
end
return state()
