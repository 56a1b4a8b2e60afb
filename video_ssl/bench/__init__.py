"""What a step costs, what the loader delivers, which decoder is exact and fast."""
