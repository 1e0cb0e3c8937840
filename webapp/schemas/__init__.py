"""What request bodies and query strings may hold; everything else is refused before it reaches anything."""
