-- Carry out one decision of the router, if the world still is as the router saw it.
-- ARGV: router epoch, job, attempt, claim time in ms, replica, start kind, decision, victims (csv), then for a new replica:
--       model, checkpoint, gpus (csv), bytes per gpu, max jobs, engine, context
-- Returns 'ok', or why not: 'stale_router', 'gone', 'full', 'dead', 'busy'.
local epoch, job, attempt, claim_ms, replica, start_kind, decision, victims =
  ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local now = now_ms()
if redis.call('GET', P .. 'router:epoch') ~= epoch then count('stale_router'); return 'stale_router' end
local held = redis.call('HMGET', job_key(job), 'attempt', 'status', 'replica')
if held[1] ~= attempt or held[2] ~= 'queued' or held[3] ~= '' then
  -- Decided for an earlier attempt, it may well be waiting again as a later one.
  if held[2] ~= 'queued' or held[3] ~= '' then redis.call('ZREM', P .. 'waiting', job) end
  return 'gone'
end
local gpus
if #ARGV > 8 then
  local model, checkpoint, bytes = ARGV[9], ARGV[10], tonumber(ARGV[12])
  gpus = ARGV[11]
  for id in string.gmatch(victims, '[^,]+') do
    local r = redis.call('HMGET', replica_key(id), 'state', 'num_jobs')
    if r[1] ~= 'ready' or tonumber(r[2]) > 0 then return 'busy' end
  end
  local freed = {}
  for id in string.gmatch(victims, '[^,]+') do
    local r = redis.call('HMGET', replica_key(id), 'gpus', 'bytes_per_gpu')
    for gpu in string.gmatch(r[1], '[^,]+') do freed[gpu] = (freed[gpu] or 0) + tonumber(r[2]) end
  end
  for gpu in string.gmatch(gpus, '[^,]+') do
    if not is_alive(gpu, now) then return 'dead' end
    local g = redis.call('HMGET', gpu_key(gpu), 'capacity_bytes', 'reserved_bytes')
    if tonumber(g[2]) - (freed[gpu] or 0) + bytes > tonumber(g[1]) then return 'full' end
  end
  for id in string.gmatch(victims, '[^,]+') do start_unloading(id) end
  redis.call('HSET', replica_key(replica), 'model', model, 'checkpoint', checkpoint, 'gpus', gpus,
    'bytes_per_gpu', ARGV[12], 'max_jobs', ARGV[13], 'engine', ARGV[14], 'context', ARGV[15],
    'state', 'loading', 'num_jobs', 0, 'idle_since_ms', now, 'evicts', victims)
  for gpu in string.gmatch(gpus, '[^,]+') do
    redis.call('HINCRBY', gpu_key(gpu), 'reserved_bytes', bytes)
    redis.call('SADD', gpu_key(gpu) .. ':replicas', replica)
    changed('gpu', gpu)
  end
else
  local r = redis.call('HMGET', replica_key(replica), 'state', 'num_jobs', 'max_jobs', 'gpus')
  if not r[1] or r[1] == 'unloading' then return 'dead' end
  if tonumber(r[2]) >= tonumber(r[3]) then return 'full' end
  gpus = r[4]
end
local leader = string.match(gpus, '[^,]+')
if not is_alive(leader, now) then return 'dead' end
take_slot(job, replica, leader, now + claim_ms)
redis.call('HSET', job_key(job), 'start_kind', start_kind, 'decision', decision)
status_event(job, 'queued', 'placing')
return 'ok'
