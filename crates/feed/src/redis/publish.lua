-- ARGV: epoch, floor, length of the tail, number of rows; then for each row member, cut-off, expiry, version, by version
-- ('1': the higher version replaces), body, recorded position or '', expiry in seconds or ''.
-- Cut-off, expiry and version are 20 digits each, so that they compare as text: a Lua number can't hold them.
local epoch, floor = tonumber(ARGV[1]), tonumber(ARGV[2])
if not is_present(epoch) then return CHANGED end
if not record.whole or floor > epoch * PLACES + record.place then return LOST end
local rows = tonumber(ARGV[4])
if record.place + rows >= PLACES then return redis.error_reply('CSFULL no place is left') end

local ZERO = string.rep('0', 20)
local function max(a, b) if a > b then return a else return b end end

local positions, place, fresh = {}, record.place, {}
for row = 0, rows - 1 do
  local at = 4 + row * 8
  local member, cutoff, expires, version = ARGV[at + 1], ARGV[at + 2], ARGV[at + 3], ARGV[at + 4]
  local by_version, body, recorded, expiry = ARGV[at + 5] == '1', ARGV[at + 6], ARGV[at + 7], ARGV[at + 8]
  local old = redis.call('HGET', ENTRIES, member)
  local stricter = true
  if old then
    local old_cutoff, old_expires, old_version = string.sub(old, 1, 20), string.sub(old, 21, 40), string.sub(old, 41, 60)
    if by_version then
      stricter = version > old_version
    else
      -- One that a cut-off may no longer stand in for has to say so.
      stricter = cutoff > old_cutoff or expires > old_expires or (version == ZERO and old_version ~= ZERO)
      if expires < old_expires then expiry = nil end
      cutoff, expires = max(cutoff, old_cutoff), max(expires, old_expires)
      version = (version == ZERO or old_version == ZERO) and ZERO or max(version, old_version)
    end
  end
  local position
  if not stricter then
    position = redis.call('ZSCORE', LIVE, member)
    -- While an epoch is seeded, what no record says to have stood where it stands may stem from another history.
    if position and recorded == '' and not record.seeded and tonumber(position) <= epoch * PLACES then position = nil end
  end
  if not position then
    local value = cutoff .. expires .. version .. body
    if recorded ~= '' and not record.seeded and tonumber(recorded) <= epoch * PLACES then
      position = recorded
    else
      place = place + 1
      position = int(epoch * PLACES + place)
      fresh[#fresh + 1] = #value .. ':' .. value
    end
    redis.call('ZADD', LIVE, position, member)
    redis.call('HSET', ENTRIES, member, value)
    if expiry == '' then
      redis.call('ZREM', EXPIRY, member)
    elseif expiry then
      redis.call('ZADD', EXPIRY, expiry, member)
    end
  end
  positions[row + 1] = position
end
keep_size()
if place > record.place then
  redis.call('HSET', EPOCH, 'place', int(place))
  -- One item of the tail for all that came together, named by the last place: many readers take it in one piece.
  local oldest = int(epoch) .. '-' .. int(math.max(0, place - tonumber(ARGV[3])))
  redis.call('XADD', TAIL, 'MINID', '~', oldest, int(epoch) .. '-' .. int(place),
    't', time[1], 'u', time[2], 'f', int(record.place + 1), 'e', table.concat(fresh))
end
return positions
