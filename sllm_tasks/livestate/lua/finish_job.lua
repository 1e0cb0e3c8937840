-- The owner reports how the job ended. The job stays active until the ledger has committed it (end_job).
-- ARGV: job, attempt, epoch, outcome as JSON. Returns 'ok' or 'stale'.
local job, attempt, epoch, outcome = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not is_current(job, attempt, epoch) then return 'stale' end
local h = redis.call('HMGET', job_key(job), 'replica', 'gpu', 'owner', 'start_kind', 'started_ms', 'first_token_ms',
  'num_tokens', 'loading_ms', 'prefill_ms', 'assigned_ms', 'status', 'decision', 'exactness', 'fingerprint', 'downgrade',
  'num_migrations', 'order', 'start')
local now, r = now_ms(), redis.call('HMGET', replica_key(h[1]), 'num_jobs', 'gpus')
end_migration_of(job, 'not_needed', '')
free_slot(job)
redis.call('HSET', job_key(job), 'owner', '', 'ended_ms', now)
status_event(job, h[11], 'finishing')
report('job_ended', cjson.encode({job_id = job, attempt = tonumber(attempt), replica = h[1], gpus = r[2] or h[2], worker = h[3],
  start_kind = h[4], started_ms = tonumber(h[5]), first_token_ms = tonumber(h[6] or '') or nil,
  num_tokens = tonumber(h[7]), loading_ms = tonumber(h[8] or '') or nil, prefill_ms = tonumber(h[9] or '') or nil,
  assigned_ms = tonumber(h[10] or '') or nil, ended_ms = now, decision = h[12] or nil, batch = tonumber(r[1] or '') or nil,
  exactness = h[13] or nil, fingerprint = h[14] or nil, downgrade = h[15] or nil,
  num_migrations = tonumber(h[16] or 0), created_ms = tonumber(h[17]), start = h[18] and cjson.decode(h[18]) or nil,
  outcome = outcome}))
return 'ok'
