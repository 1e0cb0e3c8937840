-- After the ledger's commit: readers hear of the end, and the live record gets its last hour.
-- ARGV: job, status, completed event as JSON, life in s.
local job, status, data, life_s = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local was = redis.call('HMGET', job_key(job), 'ended', 'gpu', 'owner')
if was[1] then return 'again' end
if was[3] and was[3] ~= '' then redis.call('PUBLISH', P .. 'bell:gpu:' .. was[2], job) end
end_migration_of(job, 'not_needed', '')
free_slot(job)
stop_waiting(job)
redis.call('HSET', job_key(job), 'ended', 1, 'owner', '', 'status', status, 'phase', 'finishing')
redis.call('HINCRBY', job_key(job), 'version', 1)
event(job, 'completed', data)
redis.call('EXPIRE', job_key(job), life_s)
redis.call('EXPIRE', events_key(job), life_s)
changed('job', job)
return 'ok'
