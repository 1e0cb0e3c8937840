-- Drain a gpu or take it back. ARGV: gpu, state. Returns 1 when the gpu exists.
if redis.call('EXISTS', gpu_key(ARGV[1])) == 0 then return 0 end
redis.call('HSET', gpu_key(ARGV[1]), 'state', ARGV[2])
if ARGV[2] ~= 'up' then refuse_arrivals(ARGV[1], nil, 'the target takes no more work') end
changed('gpu', ARGV[1])
return 1
