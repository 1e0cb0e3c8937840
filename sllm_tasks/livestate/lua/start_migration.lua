-- A running job is to move: room for it on the target is reserved, and both gpus are told.
-- ARGV: migration, job, reason, life in ms, predicted seconds until the job has arrived and of its pause (or ''), replica,
--       victims (csv),
--       then for a new replica: model, checkpoint, gpus (csv), bytes per gpu, max jobs, engine, context
-- Returns 'ok', or why not: 'not_running', 'moving', 'suspect', 'same', 'unlike', 'full', 'dead', 'busy'.
local id, job, reason, life_ms, predicted, predicted_pause, replica, victims = unpack(ARGV, 1, 8)
local now = now_ms()
local held = redis.call('HMGET', job_key(job), 'status', 'owner', 'replica', 'gpu', 'migration', 'attempt', 'epoch')
if held[1] ~= 'running' or not held[2] or held[2] == '' or held[3] == '' then return 'not_running' end
if held[5] then return 'moving' end
-- A job on its last chance stays: were it to kill its worker, it must be known to be the one.
if redis.call('HGET', gpu_key(held[4]), 'suspect') == job then return 'suspect' end
if replica == held[3] then return 'same' end
local source = redis.call('HMGET', replica_key(held[3]), 'checkpoint', 'engine', 'gpus')
local is_new = #ARGV > 8
local leader = string.match(is_new and ARGV[11] or redis.call('HGET', replica_key(replica), 'gpus') or '', '[^,]+')
-- A worker does not hand over to itself.
if leader == held[4] then return 'same' end
if is_new then
  if ARGV[10] ~= source[1] or ARGV[14] ~= source[2] then return 'unlike' end
  local made = make_replica(replica, victims, {unpack(ARGV, 9)}, now)
  if made ~= 'ok' then return made end
end
local target = redis.call('HMGET', replica_key(replica), 'checkpoint', 'engine', 'gpus', 'state', 'num_jobs', 'max_jobs',
  'bytes_per_gpu')
if target[4] ~= 'ready' and target[4] ~= 'loading' then return 'dead' end
if target[1] ~= source[1] or target[2] ~= source[2] then return 'unlike' end
if not are_alive(target[3], now) then return 'dead' end
if tonumber(target[5]) >= tonumber(target[6]) then return 'full' end
count_job(replica, 1)
redis.call('HSET', migration_key(id), 'job', job, 'reason', reason, 'attempt', held[6], 'epoch', held[7],
  'source_replica', held[3], 'source_gpu', held[4], 'source_gpus', source[3], 'source_worker', held[2],
  'target_replica', replica, 'target_gpu', leader, 'target_gpus', target[3],
  'target_worker', redis.call('HGET', gpu_key(leader), 'worker_id'),
  'reserved_bytes', is_new and target[7] or 0, 'predicted_s', predicted, 'predicted_pause_s', predicted_pause,
  'state', target[4] == 'ready' and 'planned' or 'loading', 'round_sent', 0, 'round_acked', -1, 'num_sent', 0,
  'num_acked', 0, 'acked_hash', '', 'target_rate', 0, 'num_bytes', 0, 'new_epoch', 0,
  'created_ms', now, 'deadline_ms', now + tonumber(life_ms))
redis.call('ZADD', P .. 'migrations', now + tonumber(life_ms), id)
redis.call('SADD', gpu_key(held[4]) .. ':migrations', id)
redis.call('SADD', gpu_key(leader) .. ':migrations', id)
redis.call('HSET', job_key(job), 'migration', id)
announce_migration(id)
tell({held[4], leader}, id, 'state')
return 'ok'
