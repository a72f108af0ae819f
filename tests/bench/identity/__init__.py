"""What signing in, checking tokens and asking the provider cost; see `bench_identity`."""
