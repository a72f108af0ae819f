"""Accounts and the OpenID Connect provider: the only service that signs tokens."""
