-- Take or keep the router's lease. ARGV: who, life in ms, the epoch it leads with or 0. Returns the fencing epoch, or ''
-- when another leads. A lease that ran out and that nobody took is still its own: nobody has decided anything since.
local who, life_ms, epoch = ARGV[1], ARGV[2], ARGV[3]
local leader = redis.call('GET', P .. 'router:leader')
if leader and leader ~= who then return '' end
if not leader and redis.call('GET', P .. 'router:epoch') ~= epoch then
  -- From the clock, so that a leader from before a loss of the live state never looks current.
  local t = redis.call('TIME')
  redis.call('SET', P .. 'router:epoch', string.format('%.0f', t[1] * 1000000 + t[2]))
end
redis.call('SET', P .. 'router:leader', who, 'PX', life_ms)
return redis.call('GET', P .. 'router:epoch')
