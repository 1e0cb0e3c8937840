-- Shared by every script: names of keys, the cluster clock, fencing and the bookkeeping of slots.
-- Scripts build key names themselves, so one Redis (not a Cluster) holds all of the live state.
if redis.replicate_commands then redis.replicate_commands() end -- Redis 6.2 needs it before TIME

local P = 'sllm:'
local FEED_MAX = 20000

local function now_ms()
  local t = redis.call('TIME')
  return t[1] * 1000 + math.floor(t[2] / 1000)
end

local function job_key(id) return P .. 'job:' .. id end
local function events_key(id) return P .. 'job:' .. id .. ':events' end
local function replica_key(id) return P .. 'replica:' .. id end
local function gpu_key(id) return P .. 'gpu:' .. id end
local function warm_key(model) return P .. 'warm:' .. model end
local function migration_key(id) return P .. 'migration:' .. id end
local function arrived_key(id) return P .. 'migration:' .. id .. ':tokens' end
local function waiting_key(model) return P .. 'waiting:' .. model end

local function changed(kind, id)
  redis.call('XADD', P .. 'feed', 'MAXLEN', '~', FEED_MAX, '*', 'kind', kind, 'id', id)
end

local function report(kind, data)
  redis.call('XADD', P .. 'reports', '*', 'kind', kind, 'data', data)
end

local function event(job, kind, data)
  return redis.call('XADD', events_key(job), '*', 'kind', kind, 'data', data)
end

local function count(name, by)
  redis.call('HINCRBY', P .. 'counters', name, by or 1)
end

local function status_event(job, status, phase)
  redis.call('HSET', job_key(job), 'status', status, 'phase', phase)
  redis.call('HINCRBY', job_key(job), 'version', 1)
  event(job, 'status', cjson.encode({status = status, phase = phase}))
end

-- A write counts only while its attempt and epoch are the current ones; anything else is a stale owner.
local function is_current(job, attempt, epoch)
  local held = redis.call('HMGET', job_key(job), 'attempt', 'epoch', 'owner')
  if held[1] == attempt and held[2] == epoch and held[3] and held[3] ~= '' then return true end
  count('fence_rejected')
  return false
end

local function set_warm(id)
  local r = redis.call('HMGET', replica_key(id), 'model', 'state', 'num_jobs')
  if r[2] == 'ready' then
    redis.call('ZADD', warm_key(r[1]), r[3], id)
  elseif r[1] then
    redis.call('ZREM', warm_key(r[1]), id)
  end
end

local function start_waiting(job)
  local h = redis.call('HMGET', job_key(job), 'order', 'model', 'tenant')
  if redis.call('ZADD', P .. 'waiting', h[1], job) == 1 then
    redis.call('ZADD', waiting_key(h[2]), h[1], job)
    redis.call('HSET', job_key(job), 'waits_since_ms', now_ms())
    redis.call('HINCRBY', P .. 'tenants:waiting', h[3], 1)
  end
  changed('job', job)
end

-- Safe to call for a job that does not wait.
local function stop_waiting(job)
  if redis.call('ZREM', P .. 'waiting', job) == 0 then return end
  redis.call('HDEL', job_key(job), 'hold')
  local h = redis.call('HMGET', job_key(job), 'model', 'tenant')
  redis.call('ZREM', waiting_key(h[1]), job)
  redis.call('HINCRBY', P .. 'tenants:waiting', h[2], -1)
end

-- Whether a decision about a job still is about the attempt that waits.
local function is_undecided(job, attempt)
  local held = redis.call('HMGET', job_key(job), 'attempt', 'status', 'replica')
  local waits = held[2] == 'queued' and held[3] == ''
  -- Decided for an earlier attempt, it may well be waiting again as a later one.
  if not waits then stop_waiting(job) end
  return waits and held[1] == attempt
end

-- A job is charged all tokens that it may need when it starts, and gets back what it has not produced at the end.
local function charge(job, sign)
  local h = redis.call('HMGET', job_key(job), 'tenant', 'prompt_tokens', 'max_tokens', 'num_tokens')
  local tokens = sign > 0 and h[2] + h[3] or h[4] - h[3]
  redis.call('HINCRBY', P .. 'tenants:served', h[1], tokens)
  redis.call('HINCRBY', P .. 'tenants:running', h[1], sign)
end

-- The job takes one slot of a replica and is due to be claimed by the worker that leads it.
local function take_slot(job, replica, leader, claim_due_ms)
  redis.call('HINCRBY', replica_key(replica), 'num_jobs', 1)
  set_warm(replica)
  redis.call('HSET', job_key(job), 'replica', replica, 'gpu', leader, 'assigned_ms', now_ms())
  redis.call('HDEL', job_key(job), 'wait_reason')
  redis.call('SADD', gpu_key(leader) .. ':jobs', job)
  redis.call('ZADD', P .. 'leases', claim_due_ms, job)
  stop_waiting(job)
  charge(job, 1)
  changed('replica', replica)
end

-- A replica finishes what it has and takes no more.
local function start_draining(replica)
  redis.call('HSET', replica_key(replica), 'state', 'draining')
  set_warm(replica)
  changed('replica', replica)
end

-- One more job on a replica, or one less.
local function count_job(replica, sign)
  if redis.call('EXISTS', replica_key(replica)) == 0 then return end
  local left = redis.call('HINCRBY', replica_key(replica), 'num_jobs', sign)
  if left == 0 then redis.call('HSET', replica_key(replica), 'idle_since_ms', now_ms()) end
  set_warm(replica)
  changed('replica', replica)
end

-- Source and target of a migration look at it. `kind`: 'state', or 'tokens' and 'resume' with ids from `first` on.
local function tell(gpus, id, kind, first, ids)
  local body = cjson.encode({id = id, kind = kind, first = first or 0}) .. '\n' .. (ids or '')
  local message = redis.sha1hex(body) .. body
  for _, gpu in ipairs(gpus) do redis.call('PUBLISH', P .. 'migrations:gpu:' .. gpu, message) end
end

-- Readers of the job and the ledger hear how a migration stands.
local function announce_migration(id)
  local m = redis.call('HMGET', migration_key(id), 'job', 'state', 'reason', 'attempt', 'source_replica', 'source_gpus',
    'target_replica', 'target_gpus', 'reserved_bytes', 'created_ms', 'ended_ms', 'pause_ms', 'num_bytes', 'num_sent',
    'round_acked', 'error', 'predicted_s', 'predicted_pause_s')
  local job = m[1]
  event(job, 'migration', cjson.encode({id = id, state = m[2], reason = m[3], source = m[6], target = m[8],
    rounds = math.max(0, tonumber(m[15])), pause_ms = tonumber(m[12] or '') or nil, error = m[16] or nil}))
  report('migration', cjson.encode({id = id, job_id = job, state = m[2], reason = m[3], attempt = tonumber(m[4]),
    source_replica = m[5], source_gpus = m[6], target_replica = m[7], target_gpus = m[8],
    reserved_bytes = tonumber(m[9]), created_ms = tonumber(m[10]), ended_ms = tonumber(m[11] or '') or nil,
    pause_ms = tonumber(m[12] or '') or nil, num_bytes = tonumber(m[13]), num_tokens = tonumber(m[14]),
    error = m[16] or nil, predicted_s = tonumber(m[17] or '') or nil, predicted_pause_s = tonumber(m[18] or '') or nil,
    batch = tonumber(redis.call('HGET', replica_key(m[7]), 'num_jobs') or '') or nil}))
end

-- A migration is over, and gives back what it holds. Returns whether that is news.
local function end_migration(id, state, why)
  local m = redis.call('HMGET', migration_key(id), 'state', 'job', 'source_gpu', 'target_gpu', 'target_replica')
  if not m[1] or redis.call('ZSCORE', P .. 'migrations', id) == false then return false end
  -- The target owns the job already: what the job takes there is given back with the job.
  if m[1] ~= 'handing_over' then count_job(m[5], -1)
  elseif state == 'not_needed' then state = 'succeeded' end
  redis.call('ZREM', P .. 'migrations', id)
  redis.call('SREM', gpu_key(m[3]) .. ':migrations', id)
  redis.call('SREM', gpu_key(m[4]) .. ':migrations', id)
  redis.call('HDEL', job_key(m[2]), 'migration')
  redis.call('HSET', migration_key(id), 'state', state, 'ended_ms', now_ms())
  local spent = redis.call('HMGET', migration_key(id), 'num_bytes', 'pause_ms')
  count('migrations')
  count('migration_bytes', spent[1])
  count('migration_pause_ms', spent[2] or 0)
  if why ~= '' then redis.call('HSET', migration_key(id), 'error', why) end
  announce_migration(id)
  redis.call('EXPIRE', migration_key(id), 3600)
  redis.call('DEL', arrived_key(id))
  tell({m[3], m[4]}, id, 'state')
  return true
end

-- The job ends, or loses its place: so does its migration, if it has one.
local function end_migration_of(job, state, why)
  local id = redis.call('HGET', job_key(job), 'migration')
  if id then end_migration(id, state, why) end
end

-- Nobody arrives at a gpu any more, or at one of its replicas; who has arrived stays.
local function refuse_arrivals(gpu, replica, why)
  for _, id in ipairs(redis.call('SMEMBERS', gpu_key(gpu) .. ':migrations')) do
    local m = redis.call('HMGET', migration_key(id), 'target_gpu', 'target_replica', 'state')
    if m[1] == gpu and (not replica or m[2] == replica) and m[3] ~= 'handing_over' then
      end_migration(id, 'failed', why)
    end
  end
end

-- Whether an operator has drained a gpu, or its node.
local function is_drained(gpu)
  local d = redis.call('HMGET', P .. 'drains', gpu, string.match(gpu, '^(.*)%.%d+$'))
  return (d[1] or d[2]) and true or false
end

-- A worker that leaves drains its gpu for good, whatever operators drain and take back meanwhile.
local function note_leaving(gpu, state)
  if state == 'draining' then redis.call('HSET', gpu_key(gpu), 'leaving', 1)
  else redis.call('HDEL', gpu_key(gpu), 'leaving') end
end

-- What has memory on a gpu that takes no more work gets no more jobs, also where another gpu leads it.
local function set_gpu_state(gpu, state)
  redis.call('HSET', gpu_key(gpu), 'state', state)
  if state ~= 'up' then
    local why = 'the target takes no more work'
    refuse_arrivals(gpu, nil, why)
    for _, id in ipairs(redis.call('SMEMBERS', gpu_key(gpu) .. ':replicas')) do
      local gpus = redis.call('HGET', replica_key(id), 'gpus')
      if gpus then refuse_arrivals(string.match(gpus, '[^,]+'), id, why) end
    end
  end
  changed('gpu', gpu)
end

-- Gives back whatever place the job holds; safe to call for a job that holds none.
local function free_slot(job)
  local held = redis.call('HMGET', job_key(job), 'replica', 'gpu')
  redis.call('ZREM', P .. 'leases', job)
  if held[2] and held[2] ~= '' then
    redis.call('SREM', gpu_key(held[2]) .. ':jobs', job)
    if redis.call('HGET', gpu_key(held[2]), 'suspect') == job then
      redis.call('HDEL', gpu_key(held[2]), 'suspect')
      changed('gpu', held[2])
    end
  end
  if held[1] and held[1] ~= '' then
    redis.call('HSET', job_key(job), 'replica', '', 'gpu', '')
    charge(job, -1)
    count_job(held[1], -1)
  end
end

-- The job goes on on a replica, whose promise about continuations becomes the job's. All of a job is exact only if all
-- of its replicas are, and of one class.
local function note_class(job, replica)
  local new = redis.call('HMGET', replica_key(replica), 'exactness', 'fingerprint', 'downgrade')
  if not new[1] then return end
  local held = redis.call('HMGET', job_key(job), 'exactness', 'fingerprint', 'downgrade', 'num_tokens')
  local exactness, downgrade = new[1], new[3]
  if held[1] and tonumber(held[4]) > 0 then
    if held[1] == 'token' then
      exactness, downgrade = 'token', held[3]
    elseif new[2] ~= held[2] then
      exactness = 'token'
      if downgrade == '' then downgrade = 'it went on in another class than ' .. held[2] end
    end
  end
  redis.call('HSET', job_key(job), 'exactness', exactness, 'fingerprint', new[2], 'downgrade', downgrade)
end

-- Puts a job back among the waiting ones as a new attempt, its tokens kept.
local function requeue(job, reason, worker_lost)
  local held = redis.call('HMGET', job_key(job), 'attempt', 'cancel', 'num_tokens', 'status')
  end_migration_of(job, 'failed', reason)
  free_slot(job)
  report('attempt_ended', cjson.encode({
    job_id = job, attempt = tonumber(held[1]), reason = reason, worker_lost = worker_lost,
    canceling = held[2] and true or false, num_tokens = tonumber(held[3]), at_ms = now_ms()}))
  redis.call('HINCRBY', job_key(job), 'attempt', 1)
  if worker_lost then redis.call('HINCRBY', job_key(job), 'losses', 1) end
  redis.call('HSET', job_key(job), 'owner', '', 'resends', 0)
  start_waiting(job)
  if held[4] ~= 'canceling' then status_event(job, 'queued', 'waiting_gpu') end
end

-- Forgets a replica; its memory counts as free from now on.
local function drop_replica(id)
  local r = redis.call('HMGET', replica_key(id), 'model', 'gpus', 'bytes_per_gpu', 'state')
  if not r[1] then return end
  refuse_arrivals(string.match(r[2], '[^,]+'), id, 'the target has no replica any more')
  for gpu in string.gmatch(r[2], '[^,]+') do
    redis.call('SREM', gpu_key(gpu) .. ':replicas', id)
    if r[4] ~= 'unloading' and redis.call('EXISTS', gpu_key(gpu)) == 1 then
      redis.call('HINCRBY', gpu_key(gpu), 'reserved_bytes', -tonumber(r[3]))
      changed('gpu', gpu)
    end
  end
  redis.call('ZREM', warm_key(r[1]), id)
  redis.call('DEL', replica_key(id))
  changed('replica', id)
end

-- An idle replica stops taking jobs. Its bytes are promised to others at once: its worker frees before it loads.
local function start_unloading(id)
  local r = redis.call('HMGET', replica_key(id), 'state', 'num_jobs', 'gpus', 'bytes_per_gpu')
  if not r[1] or r[1] == 'unloading' or tonumber(r[2]) > 0 then return false end
  redis.call('HSET', replica_key(id), 'state', 'unloading')
  set_warm(id)
  for gpu in string.gmatch(r[3], '[^,]+') do
    if redis.call('EXISTS', gpu_key(gpu)) == 1 then
      redis.call('HINCRBY', gpu_key(gpu), 'reserved_bytes', -tonumber(r[4]))
      changed('gpu', gpu)
    end
  end
  changed('replica', id)
  return true
end

-- A replica loses a gpu. Without its leader it is gone; else its jobs wait again, and its leader, whom they did not
-- kill, has to free what it holds on the other gpus. Until then it is in the set of each of its gpus.
local function lose_gpu(id, gpu)
  local gpus = redis.call('HGET', replica_key(id), 'gpus')
  local leader = gpus and string.match(gpus, '[^,]+')
  if not leader or leader == gpu then
    drop_replica(id)
    redis.call('SREM', gpu_key(gpu) .. ':replicas', id)
    return 0
  end
  local lost = 0
  refuse_arrivals(leader, id, 'the target lost a gpu')
  for _, job in ipairs(redis.call('SMEMBERS', gpu_key(leader) .. ':jobs')) do
    if redis.call('HGET', job_key(job), 'replica') == id then
      requeue(job, 'worker_lost', false)
      lost = lost + 1
    end
  end
  start_unloading(id)
  return lost
end

-- A gpu whose worker is gone: what it ran waits again, what it held is free.
local function reap_gpu(gpu)
  local jobs = redis.call('SMEMBERS', gpu_key(gpu) .. ':jobs')
  for _, job in ipairs(jobs) do
    local held = redis.call('HMGET', job_key(job), 'gpu', 'owner', 'phase')
    if held[1] == gpu and held[3] ~= 'finishing' then requeue(job, 'worker_lost', held[2] ~= '') end
  end
  refuse_arrivals(gpu, nil, 'the target is lost')
  local lost = #jobs
  for _, id in ipairs(redis.call('SMEMBERS', gpu_key(gpu) .. ':replicas')) do lost = lost + lose_gpu(id, gpu) end
  redis.call('DEL', gpu_key(gpu), gpu_key(gpu) .. ':jobs', gpu_key(gpu) .. ':migrations')
  redis.call('ZREM', P .. 'gpus', gpu)
  changed('gpu', gpu)
  return lost
end

local function is_alive(gpu, now)
  local deadline = redis.call('ZSCORE', P .. 'gpus', gpu)
  return deadline and tonumber(deadline) > now and redis.call('HGET', gpu_key(gpu), 'state') == 'up'
end

-- Whether all gpus of a replica (csv) take work.
local function are_alive(gpus, now)
  for gpu in string.gmatch(gpus, '[^,]+') do
    if not is_alive(gpu, now) then return false end
  end
  return true
end

-- Memory for a new replica, whose victims are told to go. Returns 'ok', or why not: 'busy', 'dead', 'full'.
-- `r`: model, checkpoint, gpus (csv), bytes per gpu, max jobs, engine, context
local function make_replica(id, victims, r, now)
  local bytes = tonumber(r[4])
  for victim in string.gmatch(victims, '[^,]+') do
    local v = redis.call('HMGET', replica_key(victim), 'state', 'num_jobs')
    if (v[1] ~= 'ready' and v[1] ~= 'draining') or tonumber(v[2]) > 0 then return 'busy' end
  end
  local freed = {}
  for victim in string.gmatch(victims, '[^,]+') do
    local v = redis.call('HMGET', replica_key(victim), 'gpus', 'bytes_per_gpu')
    for gpu in string.gmatch(v[1], '[^,]+') do freed[gpu] = (freed[gpu] or 0) + tonumber(v[2]) end
  end
  for gpu in string.gmatch(r[3], '[^,]+') do
    if not is_alive(gpu, now) then return 'dead' end
    local g = redis.call('HMGET', gpu_key(gpu), 'capacity_bytes', 'reserved_bytes')
    if tonumber(g[2]) - (freed[gpu] or 0) + bytes > tonumber(g[1]) then return 'full' end
  end
  for victim in string.gmatch(victims, '[^,]+') do start_unloading(victim) end
  redis.call('HSET', replica_key(id), 'model', r[1], 'checkpoint', r[2], 'gpus', r[3], 'bytes_per_gpu', r[4],
    'max_jobs', r[5], 'engine', r[6], 'context', r[7], 'state', 'loading', 'num_jobs', 0, 'idle_since_ms', now)
  for gpu in string.gmatch(r[3], '[^,]+') do
    redis.call('HINCRBY', gpu_key(gpu), 'reserved_bytes', bytes)
    redis.call('SADD', gpu_key(gpu) .. ':replicas', id)
    changed('gpu', gpu)
  end
  return 'ok'
end
