-- Say which gates are closed, all others being open, unless one was moved since the caller looked.
-- ARGV: version that the caller saw, '' for none; then the closed gates.
local seen = ARGV[1]
local held = redis.call('HGET', P .. 'gates', 'version') or ''
if held ~= seen then return end
-- From the clock, so that gates from before a loss of the live state never look like the present ones.
local t = redis.call('TIME')
local version = string.format('%.0f', t[1] * 1000000 + t[2])
redis.call('DEL', P .. 'gates')
redis.call('HSET', P .. 'gates', 'version', version)
for i = 2, #ARGV do redis.call('HSET', P .. 'gates', ARGV[i], 1) end
