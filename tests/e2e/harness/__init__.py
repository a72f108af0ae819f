"""What the end-to-end tests stand on: a stack, people, imports and event streams."""
