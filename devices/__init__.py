"""Device helpers shared by models and preprocessing."""
