-- Take from a bucket that holds what a minute gives, and fills up again within one.
-- ARGV: bucket, what a minute gives (at least 1), amount
-- Returns {1 or 0: whether it was taken, what is left, ms until it is full, ms until the amount could be taken}.
local bucket, capacity, amount = P .. 'rate:' .. ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local now, per_ms = now_ms(), capacity / 60000
local held = redis.call('HMGET', bucket, 'left', 'at_ms')
local left = capacity
if held[1] then left = math.min(capacity, tonumber(held[1]) + math.max(0, now - tonumber(held[2])) * per_ms) end
-- Whoever wants more than a minute gives waits for a full bucket, and leaves a debt to those who come next.
local missing = math.min(amount, capacity) - left
if missing <= 0 then
  left = left - amount
  redis.call('HSET', bucket, 'left', tostring(left), 'at_ms', now)
  -- A bucket that nobody knows is full.
  redis.call('PEXPIRE', bucket, math.ceil((capacity - left) / per_ms))
end
return {missing <= 0 and 1 or 0, math.max(0, math.floor(left)), math.ceil((capacity - left) / per_ms),
  math.max(0, math.ceil(missing / per_ms))}
