-- The target has read a round (0: it is loaded and has read nothing yet); a repeated call does no harm.
-- ARGV: migration, worker of the target, round, output tokens that it has now, hash of all its tokens, seconds
-- Returns 'ok' or 'stale'.
local id, worker, round, num_tokens, hash, seconds = unpack(ARGV)
local m = redis.call('HMGET', migration_key(id), 'state', 'target_worker', 'round_sent', 'round_acked', 'source_gpu',
  'num_acked', 'target_rate', 'job')
local catches_up = m[1] == 'planned' or m[1] == 'loading' or m[1] == 'catching_up'
if not catches_up or m[2] ~= worker or tonumber(round) > tonumber(m[3]) then return 'stale' end
if tonumber(round) <= tonumber(m[4]) then return 'ok' end
if m[1] ~= 'catching_up' then
  redis.call('HSET', migration_key(id), 'state', 'catching_up')
  announce_migration(id)
end
local num_new = tonumber(num_tokens) - tonumber(m[6])
redis.call('HSET', migration_key(id), 'round_acked', round, 'num_acked', num_tokens, 'acked_hash', hash)
if tonumber(round) > 0 then
  -- The first round reads the prompt as well.
  if round == '1' then num_new = num_new + tonumber(redis.call('HGET', job_key(m[8]), 'prompt_tokens')) end
  local rate = num_new / math.max(tonumber(seconds), 0.0001)
  if rate > tonumber(m[7]) then redis.call('HSET', migration_key(id), 'target_rate', rate) end
  report('migration_round', cjson.encode({migration_id = id, round = tonumber(round), num_tokens = num_new,
    seconds = tonumber(seconds), at_ms = now_ms()}))
end
tell({m[5]}, id, 'state')
return 'ok'
