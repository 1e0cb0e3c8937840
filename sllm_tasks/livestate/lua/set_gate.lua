-- Open or close one gate, if the gates are known. ARGV: gate, 'close' or 'open'.
local gate, close = ARGV[1], ARGV[2] == 'close'
if redis.call('EXISTS', P .. 'gates') == 0 then return end
redis.call('HINCRBY', P .. 'gates', 'version', 1)
if close then redis.call('HSET', P .. 'gates', gate, 1) else redis.call('HDEL', P .. 'gates', gate) end
