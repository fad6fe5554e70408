-- What every script begins with. All keys share the hash tag {cs}.
local EPOCH, LIVE, ENTRIES, EXPIRY, TAIL, LEASES, WRITERS, AHEAD =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local PLACES = 68719476736

local function int(x) return string.format('%.0f', x) end

local time = redis.call('TIME')
local now_ms = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local run = string.match(redis.call('INFO', 'server'), 'run_id:(%w+)') or ''
local held = redis.call('HMGET', EPOCH, 'epoch', 'run_id', 'seeded', 'place', 'size')
-- Entries held, in both keys that hold them; -1 when these don't agree. A key that was evicted or deleted shows in it.
local function size()
  local n = redis.call('ZCARD', LIVE)
  return n == redis.call('HLEN', ENTRIES) and n or -1
end
local record = held[1] and {
  epoch = tonumber(held[1]), run = held[2], seeded = held[3] == '1', place = tonumber(held[4]), ahead = redis.call('GET', AHEAD) or '',
  whole = size() == tonumber(held[5] or '-2')
}

-- Run, seconds, microseconds, when a writer was last seen; then the record, if any.
local function state()
  local writer = redis.call('ZREVRANGE', WRITERS, 0, 0, 'WITHSCORES')
  local seen = writer[2] and int(math.max(0, now_ms - tonumber(writer[2]))) or ''
  local s = { run, time[1], time[2], seen }
  if record then
    s[5], s[6], s[7], s[8], s[9] = int(record.epoch), record.run, record.seeded and '1' or '0', int(record.place), record.ahead
    s[10] = record.whole and '1' or '0'
  end
  return s
end

-- Nothing is written but in the epoch that the caller means, on the server that it was opened on.
local function is_present(epoch)
  return run ~= '' and record and record.run == run and record.epoch == epoch
end
local function keep_size() redis.call('HSET', EPOCH, 'size', int(size())) end
local LOST = redis.error_reply('CSLOST entries were lost')
local CHANGED = redis.error_reply('CSEPOCH the epoch has changed')
