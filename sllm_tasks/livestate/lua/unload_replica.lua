-- Stop an idle replica from taking jobs. ARGV: replica. Returns its leader's gpu, or '' when it is busy or gone.
if start_unloading(ARGV[1]) then
  return string.match(redis.call('HGET', replica_key(ARGV[1]), 'gpus'), '[^,]+')
end
return ''
