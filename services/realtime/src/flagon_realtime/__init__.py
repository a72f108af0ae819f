"""Server-sent events from the Redis stream to browsers, and rooms over WebSockets."""
