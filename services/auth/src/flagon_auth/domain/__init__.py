"""What auth decides, one module for each noun."""
