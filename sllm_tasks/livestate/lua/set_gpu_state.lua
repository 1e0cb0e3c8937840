-- A worker says that its gpu drains, since it leaves, or takes work. ARGV: gpu, state. Returns 1 when the gpu exists.
if redis.call('EXISTS', gpu_key(ARGV[1])) == 0 then return 0 end
note_leaving(ARGV[1], ARGV[2])
set_gpu_state(ARGV[1], ARGV[2])
return 1
