"""What the pages know about products, jobs, money and supplier files."""
