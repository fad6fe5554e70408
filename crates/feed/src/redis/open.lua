-- ARGV: the epoch.
local epoch = tonumber(ARGV[1])
if run ~= '' and (not record or record.epoch < epoch) then
  redis.call('DEL', TAIL)
  redis.call('HDEL', EPOCH, 'ahead')
  redis.call('HSET', EPOCH, 'epoch', int(epoch), 'run_id', run, 'seeded', '0', 'place', '0')
  record = { epoch = epoch, run = run, seeded = false, place = 0, ahead = '' }
end
return state()
