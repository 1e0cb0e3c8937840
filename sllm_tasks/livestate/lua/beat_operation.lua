-- The node agent goes on with an operation, or has ended it.
-- ARGV: operation, attempt, owner, lease in ms, progress as JSON, result ('' while it goes on)
-- Returns 'ok' or 'stale'.
local key = P .. 'operation:' .. ARGV[1]
local h = redis.call('HMGET', key, 'attempt', 'owner')
if h[1] ~= ARGV[2] or h[2] ~= ARGV[3] then count('fence_rejected'); return 'stale' end
redis.call('HSET', key, 'lease_ms', now_ms() + tonumber(ARGV[4]), 'progress', ARGV[5])
if ARGV[6] ~= '' then
  redis.call('HSET', key, 'result', ARGV[6])
  redis.call('EXPIRE', key, 3600)
  report('operation', cjson.encode({operation_id = ARGV[1], attempt = tonumber(ARGV[2]), status = 'ended'}))
end
return 'ok'
