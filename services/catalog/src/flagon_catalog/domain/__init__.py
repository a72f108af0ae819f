"""What the catalog can do; one module for each noun."""
