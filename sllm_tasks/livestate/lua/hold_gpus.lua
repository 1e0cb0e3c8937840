-- Running jobs are to leave some gpus for a waiting job: what they leave takes no more jobs, and the router promises
-- nobody else the memory until a time. It goes with the job's wait.
-- ARGV: router epoch, job, attempt, until when in ms, gpus (csv), replicas that are left (csv)
-- Returns 'ok', or why not: 'stale_router', 'gone', 'dead'.
local epoch, job, attempt, until_ms, gpus, replicas = unpack(ARGV)
if redis.call('GET', P .. 'router:epoch') ~= epoch then count('stale_router'); return 'stale_router' end
if not is_undecided(job, attempt) then return 'gone' end
for id in string.gmatch(replicas, '[^,]+') do
  local state = redis.call('HGET', replica_key(id), 'state')
  if state ~= 'ready' and state ~= 'draining' then return 'dead' end
end
for id in string.gmatch(replicas, '[^,]+') do start_draining(id) end
redis.call('HSET', job_key(job), 'hold', until_ms .. ' ' .. gpus)
return 'ok'
