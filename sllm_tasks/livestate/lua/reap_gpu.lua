-- Free what a dead worker held.
-- ARGV: gpu, worker or '' ('' reaps only when its heartbeat has run out), the call's expiry in ms
-- Returns the number of jobs that wait again, or -1 when the gpu is not dead.
local gpu, worker, expires_ms = ARGV[1], ARGV[2], tonumber(ARGV[3])
if worker ~= '' then
  if redis.call('HGET', gpu_key(gpu), 'worker_id') ~= worker then return -1 end
else
  local deadline = redis.call('ZSCORE', P .. 'gpus', gpu)
  local now = now_ms()
  if not deadline or tonumber(deadline) > now or now > expires_ms then return -1 end
end
return reap_gpu(gpu)
