-- KEYS[9]: the lease. ARGV: name, value, life in ms, the reader's position or ''.
redis.call('SET', KEYS[9], ARGV[2], 'PX', ARGV[3])
redis.call('ZREMRANGEBYSCORE', LEASES, '-inf', '(' .. int(now_ms))
redis.call('ZADD', LEASES, int(now_ms + tonumber(ARGV[3])), ARGV[1])
if record and ARGV[4] ~= '' then
  local position = tonumber(ARGV[4])
  if position > record.epoch * PLACES + record.place and (record.ahead == '' or position > tonumber(record.ahead)) then
    record.ahead = int(position)
    redis.call('SET', AHEAD, record.ahead)
  end
end
return state()
