-- The worker has loaded a replica. ARGV: replica, exactness, fingerprint, downgrade. Returns 'ok' or 'gone'.
local id = ARGV[1]
if redis.call('HGET', replica_key(id), 'state') ~= 'loading' then return 'gone' end
redis.call('HSET', replica_key(id), 'state', 'ready', 'ready_ms', now_ms(),
  'exactness', ARGV[2], 'fingerprint', ARGV[3], 'downgrade', ARGV[4])
set_warm(id)
changed('replica', id)
return 'ok'
