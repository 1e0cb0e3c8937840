-- Make the live record of an accepted job and, when a ready replica has room, reserve a place on it.
-- Not if others wait for the same model: then it is the router that says whose turn it is. Nor while nobody has said
-- yet what keeps jobs off this path (`gates`), or something there does.
-- ARGV: job, attempt, spec, prompt ids, order, model, losses, claim time in ms, kind of record: 'new' or 'again', 'warm' or '',
--       checkpoint, engine and context that the job was accepted for, tenant, tokens of its prompt, tokens it may produce,
--       life in ms of a trigger for the router that the caller would send, 0: it will not
-- Returns {now, replica, gpu, send}; replica and gpu are '' when the router has to decide, and `send` is 1 when no trigger for
-- it is on its way.
local job, attempt, spec, ids, order, model, losses, claim_ms, again =
  ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9] == 'again'
local tenant = ARGV[14]
local now = now_ms()
local function left_to_router()
  local is_first = ARGV[17] ~= '0' and redis.call('SET', P .. 'router:kicked', 1, 'NX', 'PX', ARGV[17])
  return {now, '', '', is_first and 1 or 0}
end
if redis.call('EXISTS', job_key(job)) == 1 then
  local held = redis.call('HMGET', job_key(job), 'replica', 'gpu')
  if held[2] == '' then return left_to_router() end
  return {now, held[1], held[2], 0}
end
redis.call('HSET', job_key(job), 'spec', spec, 'ids', ids, 'order', order, 'model', model, 'attempt', attempt,
  'epoch', 0, 'owner', '', 'replica', '', 'gpu', '', 'num_tokens', 0, 'losses', losses, 'resends', 0, 'version', 0,
  'status', 'queued', 'phase', 'waiting_gpu', 'tenant', tenant, 'prompt_tokens', ARGV[15], 'max_tokens', ARGV[16])
if again then event(job, 'snapshot', cjson.encode({text = '', num_tokens = 0})) end
status_event(job, 'queued', 'waiting_gpu')
local gates = redis.call('HMGET', P .. 'gates', 'version', 'all', 'model:' .. model, 'tenants', 'tenant:' .. tenant)
local is_open = ARGV[10] == 'warm' and gates[1] and not (gates[2] or gates[3] or gates[4] or gates[5])
  and redis.call('EXISTS', waiting_key(model)) == 0
local best = is_open and redis.call('ZRANGE', warm_key(model), 0, 3) or {}
for _, id in ipairs(best) do
  local r = redis.call('HMGET', replica_key(id), 'num_jobs', 'max_jobs', 'gpus', 'checkpoint', 'engine', 'context')
  local leader = r[3] and string.match(r[3], '[^,]+')
  local serves = leader and r[4] == ARGV[11] and r[5] == ARGV[12] and tonumber(r[6]) >= tonumber(ARGV[13])
  if serves and tonumber(r[1]) < tonumber(r[2]) and are_alive(r[3], now) then
    take_slot(job, id, leader, now + tonumber(claim_ms))
    redis.call('HSET', job_key(job), 'start_kind', 'warm')
    return {now, id, leader, 0}
  end
end
start_waiting(job)
return left_to_router()
