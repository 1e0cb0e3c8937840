-- The router has a replica loaded that no job waits for yet, if the world still is as the router saw it.
-- ARGV: router epoch, replica, start kind, victims (csv), then model, checkpoint, gpus (csv), bytes per gpu, max jobs,
--       engine, context
-- Returns 'ok', or why not: 'stale_router', 'full', 'dead', 'busy'.
local epoch, replica, start_kind, victims = unpack(ARGV, 1, 4)
if redis.call('GET', P .. 'router:epoch') ~= epoch then count('stale_router'); return 'stale_router' end
local made = make_replica(replica, victims, {unpack(ARGV, 5)}, now_ms())
if made ~= 'ok' then return made end
redis.call('HSET', replica_key(replica), 'start_kind', start_kind)
changed('replica', replica)
return 'ok'
