-- KEYS: windows. ARGV: '1' to count, or '0' to look; then of each window its limit and its length in ms.
-- Counts on all of them, or on none when one is at its limit: what is refused by one uses up no other. A window begins with
-- the first that is counted, and ends by itself.
local full = false
local held = {}
for i, key in ipairs(KEYS) do
  held[i] = tonumber(redis.call('GET', key) or '0')
  if held[i] >= tonumber(ARGV[2 * i]) then full = true end
end
local counted = ARGV[1] == '1' and not full
local answer = { counted and 1 or 0 }
for i, key in ipairs(KEYS) do
  local n = held[i]
  if counted then n = redis.call('INCR', key) end
  local rest = redis.call('PTTL', key)
  if rest < 0 then
    rest = tonumber(ARGV[2 * i + 1])
    if n > 0 then redis.call('PEXPIRE', key, rest) end
  end
  answer[2 * i], answer[2 * i + 1] = n, rest
end
return answer
