-- Owners add tokens, those of one decode step at once; tokens whose index is already there are skipped, so a repeated
-- call does no harm.
-- ARGV, for each job: job, attempt, epoch, first index, number of tokens, one JSON each.
-- Returns for each job 'ok', 'cancel' (the user wants it stopped), 'stale' (no longer yours), or a number: tokens are
-- missing before these, which a server that was restarted has forgotten; send again from that index.
local function append(job, attempt, epoch, first, from, to)
  local key = job_key(job)
  local held = redis.call('HMGET', key, 'attempt', 'epoch', 'owner', 'num_tokens', 'status', 'cancel', 'migration')
  if held[1] ~= attempt or held[2] ~= epoch or not held[3] or held[3] == '' then
    count('fence_rejected')
    return 'stale'
  end
  local have = tonumber(held[4])
  if first > have then count('token_gaps'); return have end
  if held[5] == 'starting' then
    local now = now_ms()
    redis.call('HSET', key, 'first_token_ms', now)
    if have == 0 then
      -- What its reader waited for; attempts that go on from here change nothing about that.
      local t = redis.call('HMGET', key, 'assigned_ms', 'started_ms', 'prefill_ms', 'start_kind')
      redis.call('HSET', key, 'start', cjson.encode({assigned_ms = tonumber(t[1] or '') or nil,
        started_ms = tonumber(t[2] or '') or nil, prefill_ms = tonumber(t[3] or '') or nil, start_kind = t[4] or nil,
        first_token_ms = now}))
    end
    status_event(job, 'running', 'decoding')
  end
  for i = from + have - first, to do
    redis.call('XADD', events_key(job), '*', 'kind', 'token', 'data', ARGV[i], 'epoch', epoch)
  end
  if held[7] and redis.call('HGET', migration_key(held[7]), 'state') == 'handing_over' then
    -- The first token after a move: the reader's pause is over.
    local paused = tonumber(redis.call('HGET', migration_key(held[7]), 'last_token_ms'))
    redis.call('HSET', migration_key(held[7]), 'pause_ms', now_ms() - paused)
    redis.call('HINCRBY', key, 'num_migrations', 1)
    end_migration(held[7], 'succeeded', '')
    status_event(job, held[5], 'decoding')
  end
  local total = first + to - from + 1
  if total > have then redis.call('HSET', key, 'num_tokens', total) end
  return held[6] and 'cancel' or 'ok'
end

local verdicts, at = {}, 1
while at <= #ARGV do
  local from = at + 5
  local to = from + tonumber(ARGV[at + 4]) - 1
  verdicts[#verdicts + 1] = append(ARGV[at], ARGV[at + 1], ARGV[at + 2], tonumber(ARGV[at + 3]), from, to)
  at = to + 1
end
return verdicts
