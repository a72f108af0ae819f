"""Pages for people and the JSON API of accounts."""
