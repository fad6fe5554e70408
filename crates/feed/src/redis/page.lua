-- ARGV: the score to begin after, how many. One more is looked for, to say whether there is more.
local limit = tonumber(ARGV[2])
local found = redis.call('ZRANGEBYSCORE', LIVE, '(' .. ARGV[1], '+inf', 'WITHSCORES', 'LIMIT', 0, limit + 1)
local more = #found > limit * 2
local n = math.min(#found / 2, limit)
local out = {}
for from = 1, n, 1000 do
  local members = {}
  for i = from, math.min(from + 999, n) do members[#members + 1] = found[i * 2 - 1] end
  local values = redis.call('HMGET', ENTRIES, unpack(members))
  for i = 1, #members do
    -- A member without a value was lost; the state tells.
    if values[i] then
      out[#out + 1] = found[(from + i - 1) * 2]
      out[#out + 1] = values[i]
    end
  end
end
return { state(), more and '1' or '0', out }
