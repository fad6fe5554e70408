-- ARGV: the epoch.
local epoch = tonumber(ARGV[1])
if run ~= '' and (not record or record.epoch < epoch) then
  redis.call('DEL', TAIL)
  -- Of a live set that isn't whole nothing is kept: every writer puts its own in again.
  if size() < 0 or held[5] and size() ~= tonumber(held[5]) then redis.call('UNLINK', LIVE, ENTRIES, EXPIRY) end
  redis.call('DEL', AHEAD)
  redis.call('HSET', EPOCH, 'epoch', int(epoch), 'run_id', run, 'seeded', '0', 'place', '0')
  keep_size()
  record = { epoch = epoch, run = run, seeded = false, place = 0, ahead = '', whole = true }
end
return state()
