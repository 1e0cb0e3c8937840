-- Carry out one decision of the router, if the world still is as the router saw it.
-- ARGV: router epoch, job, attempt, claim time in ms, replica, start kind, decision, victims (csv), 'suspect' or '',
--       then for a new replica: model, checkpoint, gpus (csv), bytes per gpu, max jobs, engine, context
-- Returns 'ok', or why not: 'stale_router', 'gone', 'full', 'dead', 'busy'.
local epoch, job, attempt, claim_ms, replica, start_kind, decision, victims, suspect =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9] == 'suspect'
local now = now_ms()
if redis.call('GET', P .. 'router:epoch') ~= epoch then count('stale_router'); return 'stale_router' end
if not is_undecided(job, attempt) then return 'gone' end
local gpus = #ARGV > 9 and ARGV[12] or redis.call('HGET', replica_key(replica), 'gpus')
if not gpus then return 'dead' end
local leader = string.match(gpus, '[^,]+')
if not are_alive(gpus, now) then return 'dead' end
if suspect and redis.call('HEXISTS', gpu_key(leader), 'suspect') == 1 then return 'full' end
if #ARGV > 9 then
  local made = make_replica(replica, victims, {unpack(ARGV, 10)}, now)
  if made ~= 'ok' then return made end
  redis.call('HSET', replica_key(replica), 'start_kind', start_kind)
else
  local r = redis.call('HMGET', replica_key(replica), 'state', 'num_jobs', 'max_jobs')
  if r[1] ~= 'ready' and r[1] ~= 'loading' then return 'dead' end
  if tonumber(r[2]) >= tonumber(r[3]) then return 'full' end
end
if suspect then
  redis.call('HSET', gpu_key(leader), 'suspect', job)
  changed('gpu', leader)
end
take_slot(job, replica, leader, now + claim_ms)
redis.call('HSET', job_key(job), 'start_kind', start_kind, 'decision', decision)
status_event(job, 'queued', 'placing')
return 'ok'
