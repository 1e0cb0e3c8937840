-- The router says why a job has no place yet. ARGV: job, attempt, reason.
local job, attempt, reason = ARGV[1], ARGV[2], ARGV[3]
local held = redis.call('HMGET', job_key(job), 'attempt', 'status', 'replica', 'phase')
if held[1] ~= attempt or held[2] ~= 'queued' or held[3] ~= '' then return end
redis.call('HSET', job_key(job), 'wait_reason', reason)
redis.call('HINCRBY', job_key(job), 'version', 1)
event(job, 'status', cjson.encode({status = held[2], phase = held[4], reason = reason}))
