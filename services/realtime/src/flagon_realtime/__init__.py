"""Server-sent events from the Redis stream to browsers."""
