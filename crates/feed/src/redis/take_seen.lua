-- KEYS[1]: when sessions were seen. ARGV: how many to take out, those seen longest ago.
local found = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[1]) - 1, 'WITHSCORES')
for i = 1, #found, 2 do redis.call('ZREM', KEYS[1], found[i]) end
return found
