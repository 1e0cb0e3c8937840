-- How far a replica's load is, for the jobs that wait for it and for the router's estimates.
-- ARGV: replica, progress as JSON, bytes that are loaded.
local id, progress = ARGV[1], ARGV[2]
local r = redis.call('HMGET', replica_key(id), 'state', 'gpus')
if r[1] ~= 'loading' then return end
redis.call('HSET', replica_key(id), 'loaded_bytes', ARGV[3], 'noted_ms', now_ms())
changed('replica', id)
for _, job in ipairs(redis.call('SMEMBERS', gpu_key(string.match(r[2], '[^,]+')) .. ':jobs')) do
  if redis.call('HGET', job_key(job), 'replica') == id then
    redis.call('HSET', job_key(job), 'load', progress)
    redis.call('HINCRBY', job_key(job), 'version', 1)
    event(job, 'loading', progress)
  end
end
