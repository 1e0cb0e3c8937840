-- A node agent takes an operation. ARGV: operation, attempt, owner, lease in ms, message's expiry in ms.
-- Returns {'ok', record} or {why not}.
local key = P .. 'operation:' .. ARGV[1]
local h = redis.call('HMGET', key, 'attempt', 'record', 'owner', 'lease_ms', 'result')
local now = now_ms()
if now > tonumber(ARGV[5]) then count('messages_expired'); return {'expired'} end
if not h[1] then return {'unknown'} end
if h[1] ~= ARGV[2] then count('messages_stale'); return {'stale'} end
if h[5] then return {'ended'} end
if h[3] and h[3] ~= ARGV[3] and tonumber(h[4]) > now then count('messages_duplicate'); return {'taken'} end
redis.call('HSET', key, 'owner', ARGV[3], 'lease_ms', now + tonumber(ARGV[4]))
report('operation', cjson.encode({operation_id = ARGV[1], attempt = tonumber(ARGV[2]), status = 'running'}))
return {'ok', h[2]}
