"""Makes rules, dashboards and pages of what is promised and measured."""
