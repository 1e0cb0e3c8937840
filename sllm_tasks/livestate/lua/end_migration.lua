-- Whoever finds that a migration cannot go on, or should not, ends it; one that has moved its job stays as it is.
-- ARGV: migration, state, why, 'due' (only if its time is over) or ''. Returns 1 when that ended it.
local id, state, why, only_due = unpack(ARGV)
local m = redis.call('HMGET', migration_key(id), 'state', 'deadline_ms')
if m[1] == 'handing_over' then return 0 end
if only_due == 'due' and m[2] and tonumber(m[2]) > now_ms() then return 0 end
return end_migration(id, state, why) and 1 or 0
