-- ARGV: name. Writers not seen for a day are forgotten.
redis.call('ZADD', WRITERS, int(now_ms), ARGV[1])
redis.call('ZREMRANGEBYSCORE', WRITERS, '-inf', int(now_ms - 86400000))
return state()
