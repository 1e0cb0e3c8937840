-- Ask the owner to stop. ARGV: job, reason. Returns 'unknown', 'unclaimed' (end it in the ledger) or 'asked'.
local job, reason = ARGV[1], ARGV[2]
local h = redis.call('HMGET', job_key(job), 'status', 'owner', 'gpu', 'phase')
if not h[1] then return 'unknown' end
if h[2] == '' and h[4] ~= 'finishing' then return 'unclaimed' end
if redis.call('HSETNX', job_key(job), 'cancel', reason) == 1 and h[4] ~= 'finishing' then
  status_event(job, 'canceling', h[4])
end
redis.call('PUBLISH', P .. 'bell:gpu:' .. h[3], job)
return 'asked'
