-- KEYS[9]: the lease. ARGV: name, value. What another run has written there since stays.
if redis.call('GET', KEYS[9]) == ARGV[2] then
  redis.call('DEL', KEYS[9])
  redis.call('ZREM', LEASES, ARGV[1])
end
return state()
