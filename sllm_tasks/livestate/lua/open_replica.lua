-- A draining replica takes jobs again. ARGV: router epoch, replica. Returns 'ok', 'stale_router' or 'gone'.
local epoch, id = ARGV[1], ARGV[2]
if redis.call('GET', P .. 'router:epoch') ~= epoch then count('stale_router'); return 'stale_router' end
if redis.call('HGET', replica_key(id), 'state') ~= 'draining' then return 'gone' end
redis.call('HSET', replica_key(id), 'state', 'ready')
set_warm(id)
changed('replica', id)
return 'ok'
