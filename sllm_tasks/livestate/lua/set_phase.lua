-- The owner says what it is doing. ARGV: job, attempt, epoch, phase. Returns 'ok', 'cancel' or 'stale'.
local job, attempt, epoch, phase = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not is_current(job, attempt, epoch) then return 'stale' end
local held = redis.call('HMGET', job_key(job), 'status', 'cancel', 'replica')
if phase == 'prefill' then note_class(job, held[3]) end
redis.call('HSET', job_key(job), phase .. '_ms', now_ms())
status_event(job, held[1], phase)
return held[2] and 'cancel' or 'ok'
