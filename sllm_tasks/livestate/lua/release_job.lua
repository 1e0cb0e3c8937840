-- The owner hands the job back: somebody else goes on from its tokens. ARGV: job, attempt, epoch, reason.
local job, attempt, epoch, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
if not is_current(job, attempt, epoch) then return 'stale' end
requeue(job, reason, false)
return 'ok'
