"""The protocol: Authlib's server on our tables, and the endpoints that clients call."""
