-- KEYS: windows. Takes back one count of each that is there. What is left ends when it would have ended; a window of which
-- nothing is left is gone, so that the next that is counted begins another. By SET and not by DECR: what users of this server
-- may do was said before there was this script.
for _, key in ipairs(KEYS) do
  local n = tonumber(redis.call('GET', key) or '0')
  if n > 1 then
    redis.call('SET', key, n - 1, 'KEEPTTL')
  elseif n == 1 then
    redis.call('DEL', key)
  end
end
return #KEYS
