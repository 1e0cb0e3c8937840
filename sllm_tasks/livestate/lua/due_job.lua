-- The sweeper looks at one job whose time has passed.
-- ARGV: job, claim time in ms, most resends, the call's expiry in ms
-- Returns {'resend', gpu, attempt}, {'requeued', losses}, or {'fine'}.
local job, claim_ms, max_resends = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now = now_ms()
local due = redis.call('ZSCORE', P .. 'leases', job)
if not due or tonumber(due) > now or now > tonumber(ARGV[4]) then return {'fine'} end
local h = redis.call('HMGET', job_key(job), 'owner', 'gpu', 'attempt', 'resends', 'losses')
if not h[1] then redis.call('ZREM', P .. 'leases', job); return {'fine'} end
if h[1] == '' and is_alive(h[2], now) and tonumber(h[4]) < max_resends then
  redis.call('HINCRBY', job_key(job), 'resends', 1)
  redis.call('ZADD', P .. 'leases', now + claim_ms, job)
  count('sweeper_resent')
  return {'resend', h[2], h[3]}
end
count('sweeper_requeued')
requeue(job, h[1] == '' and 'never_claimed' or 'worker_lost', h[1] ~= '')
return {'requeued', redis.call('HGET', job_key(job), 'losses')}
