-- Say which gpus operators have drained, all others being taken back, unless that was changed since the caller looked.
-- ARGV: version that the caller saw, '' for none; then nodes and gpus.
local seen = ARGV[1]
if (redis.call('HGET', P .. 'drains', '.version') or '') ~= seen then return end
local gpus, was_drained = redis.call('ZRANGE', P .. 'gpus', 0, -1), {}
for _, gpu in ipairs(gpus) do was_drained[gpu] = is_drained(gpu) end
-- From the clock, so that a version from before a loss of the live state never looks like the present one.
local t = redis.call('TIME')
redis.call('DEL', P .. 'drains')
redis.call('HSET', P .. 'drains', '.version', string.format('%.0f', t[1] * 1000000 + t[2]))
for i = 2, #ARGV do redis.call('HSET', P .. 'drains', ARGV[i], 1) end
for _, gpu in ipairs(gpus) do
  local state = redis.call('HGET', gpu_key(gpu), 'state')
  if is_drained(gpu) and state == 'up' then set_gpu_state(gpu, 'draining') end
  -- A gpu whose worker leaves drains by itself and goes on doing so.
  local leaves = redis.call('HEXISTS', gpu_key(gpu), 'leaving') == 1
  if was_drained[gpu] and not is_drained(gpu) and state == 'draining' and not leaves then set_gpu_state(gpu, 'up') end
end
