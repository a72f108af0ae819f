"""The catalog: owns products and their categories."""
