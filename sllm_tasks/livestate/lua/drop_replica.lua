-- The worker has freed a replica, or could not load it. ARGV: replica.
drop_replica(ARGV[1])
return 'ok'
