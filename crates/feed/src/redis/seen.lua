-- KEYS[1]: when sessions were seen. ARGV: how many may wait, for how long (milliseconds), then each moment and session.
-- The later of two moments stays. Says how many sessions found no room.
local most, dropped = tonumber(ARGV[1]), 0
for i = 3, #ARGV, 2 do
  if redis.call('ZCARD', KEYS[1]) < most or redis.call('ZSCORE', KEYS[1], ARGV[i + 1]) then
    redis.call('ZADD', KEYS[1], 'GT', ARGV[i], ARGV[i + 1])
  else
    dropped = dropped + 1
  end
end
redis.call('PEXPIRE', KEYS[1], ARGV[2])
return dropped
