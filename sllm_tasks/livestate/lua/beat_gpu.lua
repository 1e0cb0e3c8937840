-- A worker says that it lives, and renews the leases of its jobs.
-- ARGV: gpu, worker, life in ms, lease in ms, stats as JSON, then job, attempt, epoch of each job.
-- Returns {'unknown'} when the worker has to register again, else {'ok', then 'ok'|'cancel'|'stale' for each job}.
local gpu, worker, life_ms, lease_ms, stats = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5]
if redis.call('HGET', gpu_key(gpu), 'worker_id') ~= worker then return {'unknown'} end
local now = now_ms()
redis.call('HSET', gpu_key(gpu), 'stats', stats)
redis.call('ZADD', P .. 'gpus', now + life_ms, gpu)
local answers = {'ok'}
for i = 6, #ARGV, 3 do
  local job = ARGV[i]
  local h = redis.call('HMGET', job_key(job), 'attempt', 'epoch', 'owner', 'cancel')
  if h[1] == ARGV[i + 1] and h[2] == ARGV[i + 2] and h[3] == worker then
    redis.call('ZADD', P .. 'leases', now + lease_ms, job)
    answers[#answers + 1] = h[4] and 'cancel' or 'ok'
  else
    answers[#answers + 1] = 'stale'
  end
end
return answers
