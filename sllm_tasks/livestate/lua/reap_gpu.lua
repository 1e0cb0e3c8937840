-- Free what a dead worker held. ARGV: gpu, worker or '' ('' reaps only when its heartbeat has run out).
-- Returns the number of jobs that wait again, or -1 when the gpu is not dead.
local gpu, worker = ARGV[1], ARGV[2]
if worker ~= '' then
  if redis.call('HGET', gpu_key(gpu), 'worker_id') ~= worker then return -1 end
else
  local deadline = redis.call('ZSCORE', P .. 'gpus', gpu)
  if not deadline or tonumber(deadline) > now_ms() then return -1 end
end
return reap_gpu(gpu)
