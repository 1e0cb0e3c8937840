-- Take or keep the router's lease. ARGV: who, life in ms. Returns the fencing epoch, or '' when another leads.
local who, life_ms = ARGV[1], ARGV[2]
local leader = redis.call('GET', P .. 'router:leader')
if leader and leader ~= who then return '' end
if not leader then
  -- From the clock, so that a leader from before a loss of the live state never looks current.
  local t = redis.call('TIME')
  redis.call('SET', P .. 'router:epoch', string.format('%.0f', t[1] * 1000000 + t[2]))
end
redis.call('SET', P .. 'router:leader', who, 'PX', life_ms)
return redis.call('GET', P .. 'router:epoch')
