-- A worker takes a job that was assigned to its gpu; a second copy of the message finds it taken.
-- ARGV: job, attempt, gpu, worker, lease in ms, message's expiry in ms, the call's id ('' for one that is not repeated)
-- Returns {'ok', epoch, spec, ids, replica, start kind, now} or {why not}.
local job, attempt, gpu, worker, lease_ms, expires_ms = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6]
local call_id = ARGV[7]
local now = now_ms()
local held = redis.call('HMGET', job_key(job), 'attempt', 'status', 'owner', 'gpu', 'epoch', 'spec', 'ids', 'replica',
  'start_kind', 'call_id', 'start')
if call_id ~= '' and held[10] == call_id and held[1] == attempt and held[3] == worker then
  -- The call came through, its answer did not.
  redis.call('ZADD', P .. 'leases', now + tonumber(lease_ms), job)
  return {'ok', held[5], held[6], held[7], held[8], held[9], now}
end
if now > tonumber(expires_ms) then count('messages_expired'); return {'expired'} end
if redis.call('HGET', gpu_key(gpu), 'worker_id') ~= worker then return {'unregistered'} end
if not held[1] then return {'unknown'} end
if held[1] ~= attempt or held[4] ~= gpu then count('messages_stale'); return {'stale'} end
if held[3] ~= '' then count('messages_duplicate'); return {'taken'} end
if held[2] ~= 'queued' and held[2] ~= 'canceling' then return {'ended'} end
-- Epochs come from the clock, so that an owner from before a loss of the live state never looks current.
local t = redis.call('TIME')
local epoch = string.format('%.0f', math.max(t[1] * 1000000 + t[2], tonumber(held[5]) + 1))
redis.call('HSET', job_key(job), 'owner', worker, 'epoch', epoch, 'started_ms', now, 'call_id', call_id)
redis.call('ZADD', P .. 'leases', now + tonumber(lease_ms), job)
local r = redis.call('HMGET', replica_key(held[8]), 'state', 'gpus')
if held[2] == 'queued' then status_event(job, 'starting', r[1] == 'loading' and 'loading' or 'prefill') end
report('attempt_started', cjson.encode({job_id = job, attempt = tonumber(attempt), gpus = r[2] or gpu, worker = worker,
  replica = held[8], start_kind = held[9], at_ms = now, start = held[11] and cjson.decode(held[11]) or nil}))
return {'ok', epoch, held[6], held[7], held[8], held[9], now}
