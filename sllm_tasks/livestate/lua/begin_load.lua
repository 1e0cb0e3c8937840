-- A worker begins to load a replica: from now on the router counts what has passed of it. ARGV: replica.
local id = ARGV[1]
if redis.call('HGET', replica_key(id), 'state') ~= 'loading' then return end
redis.call('HSET', replica_key(id), 'noted_ms', now_ms())
changed('replica', id)
