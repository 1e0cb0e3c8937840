-- The source has stopped between two steps: the job becomes the target's, by this one compare-and-set.
-- ARGV: migration, attempt, epoch, output tokens that the target acknowledged, hash of all tokens up to there, lease in ms,
--       packed ids of the tokens behind them
-- Returns 'ok', 'stale' (the job is not the source's any more) or 'refused' (the migration is over: the source goes on).
local id, attempt, epoch, num_acked, hash, lease_ms, ids = unpack(ARGV)
local key = migration_key(id)
local m = redis.call('HMGET', key, 'state', 'job', 'epoch', 'num_acked', 'acked_hash', 'target_gpu', 'target_worker',
  'target_replica', 'source_gpu', 'source_replica', 'attempt', 'new_epoch')
if not m[1] then return 'refused' end
-- Done before, and the answer was lost.
if m[3] == epoch and m[11] == attempt and m[12] ~= '0' then return 'ok' end
local job, now = m[2], now_ms()
if not is_current(job, attempt, epoch) then return 'stale' end
if m[1] ~= 'catching_up' then return 'refused' end
local why
if m[4] ~= num_acked or m[5] ~= hash then why = 'the target has other tokens' end
if not is_alive(m[6], now) or redis.call('HGET', gpu_key(m[6]), 'worker_id') ~= m[7] then why = 'the target is lost' end
if redis.call('HGET', job_key(job), 'num_tokens') ~= tostring(tonumber(num_acked) + #ids / 4) then
  why = 'the source has not written all of its tokens'
end
if why then end_migration(id, 'failed', why); return 'refused' end
local last = redis.call('XREVRANGE', events_key(job), '+', '-', 'COUNT', 64)
local last_ms = now
for _, entry in ipairs(last) do
  if entry[2][2] == 'token' then last_ms = tonumber(string.match(entry[1], '%d+')); break end
end
-- A round that was sent and not acknowledged is there already, with the same tokens.
redis.call('SETRANGE', arrived_key(id), tonumber(num_acked) * 4, ids)
for i = 1, #ARGV do redis.call('HINCRBY', key, 'num_bytes', #ARGV[i]) end
local t = redis.call('TIME')
local new_epoch = string.format('%.0f', math.max(t[1] * 1000000 + t[2], tonumber(epoch) + 1))
redis.call('HSET', key, 'state', 'handing_over', 'new_epoch', new_epoch, 'num_sent', tonumber(num_acked) + #ids / 4,
  'last_token_ms', last_ms)
-- The slot on the target is the migration's until here, and the job's from here on.
count_job(m[10], -1)
redis.call('SREM', gpu_key(m[9]) .. ':jobs', job)
redis.call('SADD', gpu_key(m[6]) .. ':jobs', job)
redis.call('HSET', job_key(job), 'owner', m[7], 'epoch', new_epoch, 'replica', m[8], 'gpu', m[6])
redis.call('ZADD', P .. 'leases', now + tonumber(lease_ms), job)
note_class(job, m[8])
status_event(job, redis.call('HGET', job_key(job), 'status'), 'migrating')
announce_migration(id)
tell({m[6], m[9]}, id, 'resume', tonumber(num_acked), ids)
return 'ok'
