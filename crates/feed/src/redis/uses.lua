-- KEYS[1]: uses of emergency tokens. ARGV: how many may wait, then each use.
if redis.call('XLEN', KEYS[1]) + #ARGV - 1 > tonumber(ARGV[1]) then
  return redis.error_reply('CSCROWDED too many uses wait')
end
for i = 2, #ARGV do redis.call('XADD', KEYS[1], '*', 'use', ARGV[i]) end
return 'OK'
