-- A replica takes no more jobs; what it has goes on. ARGV: router epoch, replica. Returns 'ok', 'stale_router' or 'gone'.
local epoch, id = ARGV[1], ARGV[2]
if redis.call('GET', P .. 'router:epoch') ~= epoch then count('stale_router'); return 'stale_router' end
if redis.call('HGET', replica_key(id), 'state') ~= 'ready' then return 'gone' end
start_draining(id)
return 'ok'
