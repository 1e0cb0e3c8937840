-- A worker (new, or one the live state has forgotten) announces its gpu and what is loaded on it.
-- ARGV: gpu, worker, device, capacity bytes, life in ms, state,
--       then id, model, checkpoint, bytes, max jobs, engine, context, gpus (csv), exactness, fingerprint,
--       downgrade of each replica that it leads
-- A replica over several gpus is not taken over: the memory of the others may be promised to somebody else by now.
local gpu, worker, life_ms = ARGV[1], ARGV[2], tonumber(ARGV[5])
local lost = reap_gpu(gpu)
redis.call('HSET', gpu_key(gpu), 'worker_id', worker, 'device', ARGV[3], 'capacity_bytes', ARGV[4],
  'reserved_bytes', 0, 'state', is_drained(gpu) and 'draining' or ARGV[6], 'stats', '{}')
note_leaving(gpu, ARGV[6])
redis.call('ZADD', P .. 'gpus', now_ms() + life_ms, gpu)
for i = 7, #ARGV, 11 do
  local id, gpus = ARGV[i], ARGV[i + 7]
  local state = gpus == gpu and 'ready' or 'unloading'
  redis.call('HSET', replica_key(id), 'model', ARGV[i + 1], 'checkpoint', ARGV[i + 2], 'gpus', gpus,
    'bytes_per_gpu', ARGV[i + 3], 'max_jobs', ARGV[i + 4], 'engine', ARGV[i + 5], 'context', ARGV[i + 6],
    'exactness', ARGV[i + 8], 'fingerprint', ARGV[i + 9], 'downgrade', ARGV[i + 10],
    'state', state, 'ready_ms', now_ms(), 'num_jobs', 0, 'idle_since_ms', now_ms())
  for each in string.gmatch(gpus, '[^,]+') do redis.call('SADD', gpu_key(each) .. ':replicas', id) end
  if state == 'ready' then redis.call('HINCRBY', gpu_key(gpu), 'reserved_bytes', ARGV[i + 3]) end
  set_warm(id)
  changed('replica', id)
end
changed('gpu', gpu)
return lost
