-- The source sends tokens that the target has not; a repeated call does no harm.
-- ARGV: migration, attempt, epoch, round, index of the first token, packed ids. Returns 'ok' or 'stale'.
local id, attempt, epoch, round, first, ids = unpack(ARGV)
local m = redis.call('HMGET', migration_key(id), 'state', 'job', 'target_gpu', 'round_sent', 'num_sent')
if m[1] ~= 'catching_up' or not is_current(m[2], attempt, epoch) then return 'stale' end
if m[4] == round then return 'ok' end
if tonumber(round) ~= tonumber(m[4]) + 1 or first ~= m[5] then return 'stale' end
redis.call('APPEND', arrived_key(id), ids)
redis.call('HSET', migration_key(id), 'round_sent', round, 'num_sent', tonumber(first) + #ids / 4)
for i = 1, #ARGV do redis.call('HINCRBY', migration_key(id), 'num_bytes', #ARGV[i]) end
tell({m[3]}, id, 'tokens', tonumber(first), ids)
return 'ok'
