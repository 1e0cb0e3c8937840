-- A job on a gpu that takes no more work and has no token yet waits for another place; its owner finds its lease gone.
-- ARGV: job, gpu. Returns 1 when that is so.
local job, gpu = ARGV[1], ARGV[2]
local h = redis.call('HMGET', job_key(job), 'gpu', 'status')
if h[1] ~= gpu or (h[2] ~= 'queued' and h[2] ~= 'starting') then return 0 end
requeue(job, 'hand_over', false)
return 1
