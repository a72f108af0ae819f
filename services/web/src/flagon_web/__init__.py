"""The shop and the back office for people: a backend for frontend."""
