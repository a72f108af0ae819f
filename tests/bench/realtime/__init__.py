"""What live events cost beside other ways to push them; see `bench_realtime`."""
